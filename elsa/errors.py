"""Every error that ELSA raises on purpose; `services.rpc.status` gives each its gRPC code.

ElsaError
├── InputError                 a person gave something that cannot be used
│   ├── SpecError              a field of a run specification, of settings or of a flag
│   ├── DataError              a data file, a column, a number of rows
│   ├── ModelError             a model that cannot be carved or loaded
│   │   ├── ArchitectureError  a model family that is not supported
│   │   ├── SplitError         a split that this model does not allow
│   │   └── CheckpointError    a checkpoint that cannot be read or lacks an owned tensor
│   └── AddressError           an address that cannot be listened on or is not allowed
├── MalformedError             a message that breaks its contract: names the field
│   ├── StepOrderError         a message of a stream that came out of order
│   └── NotFiniteError         activations or gradients with NaN or infinity: names the block
├── ChecksumError              bytes that arrived otherwise than they were sent
├── NotFoundError              an unknown session, run, node or adapter
├── StaleRoundError            an update for a round that is over
│   └── TakenError             an update where another of the same sender was taken: the next round is next
├── RoundGivenUpError          a round or run that ended without its result
├── DrainingError              a server on its way down: try again elsewhere or later
├── CapacityError              no room: sessions, memory, disk or rate
│   └── FullDiskError          a disk without room: passes once somebody frees some
├── UnauthenticatedError       not who the caller claims to be
├── PermissionDeniedError      a call that this caller may not make
├── UnreachableError           a peer that did not answer until the retries were used up
│   └── HandshakeError         a peer with whom this side does not come to terms: TLS, certificates, another protocol
├── PeerError                  a peer that answered with a failure of its own
└── RoleDiedError              a process of the testbed that ended by itself
"""


class ElsaError(Exception):
    """Root of the tree. The text says what happened, with the value, and what to do next."""


class InputError(ElsaError):
    """A person gave something that cannot be used."""


class SpecError(InputError):
    """A field of a run specification, of settings or of a flag."""


class DataError(InputError):
    """A data file, a column, a number of rows."""


class ModelError(InputError):
    """A model that cannot be carved or loaded."""


class ArchitectureError(ModelError):
    """A model family that is not supported."""


class SplitError(ModelError):
    """A split that this model does not allow."""


class CheckpointError(ModelError):
    """A checkpoint that cannot be read or lacks an owned tensor."""


class AddressError(InputError):
    """An address that cannot be listened on or is not allowed."""


class MalformedError(ElsaError):
    """A message that breaks its contract: names the field."""


class StepOrderError(MalformedError):
    """A message of a stream that came out of order."""


class NotFiniteError(MalformedError):
    """Activations or gradients that hold NaN or infinity; names the block that they come from."""


class ChecksumError(ElsaError):
    """Bytes that arrived otherwise than they were sent."""


class NotFoundError(ElsaError):
    """An unknown session, run, node or adapter."""


class StaleRoundError(ElsaError):
    """An update for a round that is over."""


class TakenError(StaleRoundError):
    """An update where another of the same sender was taken: the next round is next."""


class RoundGivenUpError(ElsaError):
    """A round or run that ended without its result."""


class DrainingError(ElsaError):
    """A server on its way down: try again elsewhere or later."""


class CapacityError(ElsaError):
    """No room: sessions, memory, disk or rate."""


class FullDiskError(CapacityError):
    """A disk without room: passes once somebody frees some."""


class UnauthenticatedError(ElsaError):
    """Not who the caller claims to be."""


class PermissionDeniedError(ElsaError):
    """A call that this caller may not make."""


class UnreachableError(ElsaError):
    """A peer that did not answer until the retries were used up."""


class HandshakeError(UnreachableError):
    """A peer with whom this side does not come to terms: TLS, certificates, another protocol."""


class PeerError(ElsaError):
    """A peer that answered with a failure of its own."""


class RoleDiedError(ElsaError):
    """A process of the testbed that ended by itself."""


def first_line(error: Exception) -> str:
    """The first line of what an error says; the name of its class where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
