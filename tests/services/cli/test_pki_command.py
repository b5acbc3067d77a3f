"""`elsa pki`: keys stay where they are made, a refusal is one line and changes nothing, `show` tells what holds."""

import os
import pty
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from services.pki import certificates
from services.pki.certificates import hosts_of
from services.rpc.certificates import identity_of
from services.rpc.identity import Identity

CA, CRL = "elsa-pki/ca.pem", "elsa-pki/crl.pem"
DOCS = Path(__file__).parents[3] / "docs" / "identity.md"


@pytest.fixture(autouse=True)
def no_passphrase(monkeypatch):
    monkeypatch.delenv("ELSA_CA_PASSPHRASE", raising=False)


@pytest.fixture
def done(elsa):
    """`done(*arguments)`: what the command says; it must succeed."""

    def call(*arguments):
        code, out, err = elsa("pki", *arguments)
        assert code == 0, err
        return out + err

    return call


@pytest.fixture
def kept(elsa):
    """`kept(*arguments)`: the one line of a refusal that leaves every file as it was."""

    def call(*arguments):
        before = files()
        code, _, err = elsa("pki", *arguments)
        line = err.splitlines()[-1]
        assert (code, line[:7]) == (1, "error: ")
        assert files() == before
        return line

    return call


@pytest.fixture
def fleet(done):
    """An authority, and a request of a client, an edge and an admin."""
    done("init")
    done("request", "client", "clinic-a")
    done("request", "edge", "edge-1", "--host", "edge.example")
    done("request", "admin", "ops")


@pytest.fixture
def at(monkeypatch):
    """`at(days)`: the command runs that many days from now."""

    def call(days):
        moment = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
        monkeypatch.setattr(certificates, "utc_now", lambda: moment)

    return call


def files():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.name != "lock"}


def read(path):
    return x509.load_pem_x509_certificate(Path(path).read_bytes())


def test_a_certificate_is_had_in_three_commands_and_shown_as_good(done, fleet):
    said = done("sign", "edge-1.csr", "--days", 30)
    assert "edge.example" in said
    assert "edge-1.pem is signed" in said and "elsa-pki/ca.pem and elsa-pki/crl.pem" in said
    certificate = read("edge-1.pem")
    assert identity_of(certificate) == Identity("edge", "edge-1")
    assert hosts_of(certificate) == ("edge.example",)
    shown = done("show", "edge-1.pem", "--ca", "elsa-pki/ca.pem", "--crl", "elsa-pki/crl.pem")
    assert f"{certificate.serial_number:x}" in shown
    assert re.search(r"revoked +no, says list number 1, of 20", shown)
    for row in (
        r"role +edge",
        r"name +edge-1",
        r"hosts +edge-1\.edge\.elsa\.internal, edge\.example",
        r"days left +(29|30)",
    ):
        assert re.search(row, shown)


@pytest.mark.parametrize(
    ("given", "checked", "revoked"),
    [
        ((), "its dates; not its signature (--ca); not whether it is revoked (--crl)", "not looked at"),
        (("--ca", CA), f"its dates; its signature, by {CA}; not whether it is revoked (--crl)", "not looked at"),
        (
            ("--crl", CRL),
            f"its dates; not its signature (--ca); whether it is on the list of its authority in {CRL}; that list's "
            "dates; not its signature (--ca)",
            "no, says list number 1, of 20",
        ),
        (
            ("--ca", CA, "--crl", CRL),
            f"its dates; its signature, by {CA}; whether it is on the list of its authority in {CRL}; that list's "
            f"dates; its signature, by {CA}",
            "no, says list number 1, of 20",
        ),
    ],
)
def test_what_was_checked_is_shown_and_against_what(done, fleet, given, checked, revoked):
    done("sign", "clinic-a.csr")
    shown = done("show", "clinic-a.pem", *given)
    assert re.search(rf"checked +{re.escape(checked)} *\n", shown)
    assert re.search(rf"revoked +{re.escape(revoked)}", shown)


def test_of_two_lists_in_a_file_both_are_shown_and_that_of_the_authority_counts(done, elsa, fleet):
    """As while a fleet goes over from one authority to another."""
    done("init", "--folder", "new")
    done("sign", "clinic-a.csr")
    done("revoke", "clinic-a.pem")
    Path("both.pem").write_bytes(Path("new/crl.pem").read_bytes() + Path(CRL).read_bytes())
    Path("cas.pem").write_bytes(Path("new/ca.pem").read_bytes() + Path(CA).read_bytes())
    assert done("show", "both.pem", "--ca", "cas.pem").count("list of revoked certificates") == 2
    code, _, err = elsa("pki", "show", "clinic-a.pem", "--ca", "cas.pem", "--crl", "both.pem")
    assert (code, "was revoked on" in err) == (1, True)


def test_a_list_says_how_many_it_revokes(done, fleet):
    done("sign", "clinic-a.csr")
    assert re.search(r"revokes +no certificate", done("show", CRL))
    done("revoke", "clinic-a.pem")
    assert re.search(r"revokes +1 certificate:", done("show", CRL, "--ca", CA))


def test_a_passphrase_of_few_letters_is_refused(kept, monkeypatch):
    monkeypatch.setenv("ELSA_CA_PASSPHRASE", "x")
    assert "a passphrase of fewer than 12 characters is found by trying" in kept("init")


def test_no_key_is_ever_shown_or_sent(done, fleet):
    key = Path("clinic-a.key").read_text()
    secret = key.splitlines()[1]
    said = done("sign", "clinic-a.csr") + done("show", "clinic-a.key") + done("show", "clinic-a.csr")
    said += done("renew", "clinic-a.pem", "--key", "clinic-a.key")
    assert re.search(r"kind +private key", said)
    holders = [path for path, data in files().items() if secret.encode() in data]
    assert (holders, secret in said) == ([Path("clinic-a.key")], False)


@pytest.mark.parametrize(
    ("bits", "said"), [(0o600, "owner alone"), (0o640, "owner and its group"), (0o644, "everybody")]
)
def test_a_key_is_shown_with_who_may_read_it(done, fleet, bits, said):
    Path("clinic-a.key").chmod(bits)
    assert re.search(rf"open to +.*{said}", done("show", "clinic-a.key"))


def test_the_authority_and_the_holder_see_the_same_key(done, fleet):
    row = r"key SHA-256 +([0-9a-f]{64})"
    found = {re.search(row, done("show", f"clinic-a.{kind}")).group(1) for kind in ("key", "csr")}
    assert found == {re.search(row, done("sign", "clinic-a.csr")).group(1)}


def test_a_key_is_never_written_over(kept, fleet):
    assert "clinic-a.key: exists, and no key is written over a file" in kept("request", "client", "clinic-a")


def test_a_request_or_certificate_of_another_is_never_written_over(done, kept, fleet):
    done("sign", "clinic-a.csr")
    assert "clinic-a.pem: exists and is not edge edge-1's" in kept("sign", "edge-1.csr", "-o", "clinic-a.pem")
    assert "clinic-a.key: exists and is not edge edge-1's" in kept("sign", "edge-1.csr", "-o", "clinic-a.key")
    done("sign", "edge-1.csr")
    line = kept("renew", "edge-1.pem", "--key", "edge-1.key", "-o", "clinic-a.csr")
    assert "clinic-a.csr: exists and is not edge edge-1's" in line
    Path("clinic-a.key").rename("kept")
    assert "clinic-a.csr: exists and is not admin clinic-a's" in kept("request", "admin", "clinic-a")


def test_an_admin_is_spelled_out(done, kept, fleet):
    assert "spell it out: --expect admin/ops" in kept("sign", "ops.csr")
    assert "is for admin ops, not for admin root" in kept("sign", "ops.csr", "--expect", "admin/root")
    for wrong in ("admin", "root/ops", "admin/"):
        assert "--expect: " in kept("sign", "ops.csr", "--expect", wrong)
    assert "ops.pem is signed" in done("sign", "ops.csr", "--expect", "admin/ops")


def test_renewal_keeps_identity_hosts_and_key(done, fleet):
    done("sign", "edge-1.csr")
    first = read("edge-1.pem")
    Path("edge-1.csr").unlink()
    assert "edge-1.key stays its key" in done("renew", "edge-1.pem", "--key", "edge-1.key")
    assert "signed before with the same key" in done("sign", "edge-1.csr")
    second = read("edge-1.pem")
    assert (identity_of(second), hosts_of(second)) == (identity_of(first), hosts_of(first))
    assert second.public_key() == first.public_key()
    assert second.serial_number != first.serial_number


def test_renewal_with_a_new_key_leaves_the_old_one(done, kept, fleet):
    done("sign", "clinic-a.csr")
    first, key = read("clinic-a.pem"), Path("clinic-a.key").read_bytes()
    assert "clinic-a.key: exists" in kept("renew", "clinic-a.pem", "--key", "clinic-a.key", "--new-key")
    said = done("renew", "clinic-a.pem", "--key", "clinic-a-2.key", "--new-key")
    assert "clinic-a-2.key is the new key" in said and "set tls_key to clinic-a-2.key" in said
    assert Path("clinic-a.key").read_bytes() == key
    assert Path("clinic-a-2.key").stat().st_mode & 0o777 == 0o600
    assert "signed before with ANOTHER KEY" in done("sign", "clinic-a.csr")
    assert read("clinic-a.pem").public_key() != first.public_key()


def test_renewal_needs_the_certificates_own_key(done, kept, fleet):
    done("sign", "clinic-a.csr")
    assert "edge-1.key: is not the key of clinic-a.pem" in kept("renew", "clinic-a.pem", "--key", "edge-1.key")
    line = kept("renew", "elsa-pki/ca.pem", "--key", "elsa-pki/ca.key")
    assert "elsa-pki/ca.pem: the certificate names 0 identities" in line


def test_the_revoked_are_shown_as_such(done, elsa, fleet):
    for name in ("clinic-a", "edge-1"):
        done("sign", f"{name}.csr")
    assert "clinic-a.pem is revoked" in done("revoke", "clinic-a.pem", "--reason", "key-compromise")
    serial = f"{read('edge-1.pem').serial_number:x}"
    assert "is revoked" in done("revoke", serial)
    assert "was revoked before" in done("revoke", serial)
    for name, why in (("clinic-a", "key-compromise"), ("edge-1", "unspecified")):
        code, out, err = elsa("pki", "show", f"{name}.pem", "--ca", "elsa-pki/ca.pem", "--crl", "elsa-pki/crl.pem")
        assert code == 1
        assert re.search(rf"{name}.pem: was revoked on .*\({why}\)", err)
        assert re.search(rf"revoked +yes, on .*\({why}\)", out)
    assert serial in done("show", "elsa-pki/crl.pem", "--ca", "elsa-pki/ca.pem")
    assert "signed before" not in done("sign", "clinic-a.csr")


def test_what_is_no_certificate_here_is_not_revoked(done, kept, fleet):
    done("sign", "clinic-a.csr")
    done("init", "--folder", "other")
    assert "give its --folder" in kept("revoke", "clinic-a.pem", "--folder", "other")
    assert "no serial number that elsa-pki issued" in kept("revoke", "ab:cd")
    assert "neither a file nor a serial number in hex" in kept("revoke", "nowhere.pem")
    assert "--reason 'theft': is none; give one of unspecified, " in kept(
        "revoke", "clinic-a.pem", "--reason", "theft"
    )


def test_revoking_nobody_renews_the_lists_dates(done, elsa, fleet, at):
    at(31)
    code, _, err = elsa("pki", "show", "elsa-pki/crl.pem")
    assert (code, "has expired on" in err) == (1, True)
    at(0)
    done("revoke", "--days", 40)
    at(31)
    done("show", "elsa-pki/crl.pem", "--ca", "elsa-pki/ca.pem")


@pytest.mark.parametrize(("days", "said"), [(31, "has expired on"), (-1, "is not valid before")])
def test_what_is_out_of_its_time_is_shown_as_such(done, elsa, fleet, at, days, said):
    done("sign", "clinic-a.csr", "--days", 30)
    at(days)
    code, out, err = elsa("pki", "show", "clinic-a.pem")
    assert (code, err.count("\n")) == (1, 1)
    assert f"error: clinic-a.pem: {said}" in err
    assert "clinic-a" in out


def test_what_another_authority_says_counts_for_nothing(done, elsa, fleet):
    done("sign", "clinic-a.csr")
    done("init", "--folder", "other")
    for given, said in (
        (("clinic-a.pem", "--ca", "other/ca.pem"), "is not issued by the authority of --ca"),
        (("clinic-a.pem", "--crl", "other/crl.pem"), "is of another authority than the list of --crl"),
        (("elsa-pki/crl.pem", "--ca", "other/ca.pem"), "is not signed by the authority of --ca"),
        (("other/ca.pem", "--ca", "elsa-pki/ca.pem"), "is not issued by"),
    ):
        code, _, err = elsa("pki", "show", *given)
        assert (code, said in err) == (1, True), err


def test_a_list_that_has_expired_proves_nothing(done, elsa, fleet, at):
    done("sign", "clinic-a.csr")
    at(31)
    code, _, err = elsa("pki", "show", "clinic-a.pem", "--crl", "elsa-pki/crl.pem")
    assert (code, "the list of --crl has expired" in err) == (1, True)


def test_the_authoritys_key_is_locked_by_a_passphrase(done, kept, monkeypatch):
    done("request", "client", "clinic-a")
    monkeypatch.setenv("ELSA_CA_PASSPHRASE", "right and long")
    assert "ca.key, encrypted" in done("init")
    assert re.search(r"encrypted +yes", done("show", "elsa-pki/ca.key"))
    monkeypatch.setenv("ELSA_CA_PASSPHRASE", "wrong")
    assert "elsa-pki/ca.key: the passphrase is wrong" in kept("sign", "clinic-a.csr")
    monkeypatch.delenv("ELSA_CA_PASSPHRASE")
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        assert "set ELSA_CA_PASSPHRASE, or run this on a terminal" in kept("sign", "clinic-a.csr")
        assert "set ELSA_CA_PASSPHRASE" in kept("init", "--folder", "other", "--encrypt")
    monkeypatch.setenv("ELSA_CA_PASSPHRASE", "right and long")
    done("sign", "clinic-a.csr")


def test_on_a_terminal_the_passphrase_is_asked_twice_and_not_shown(done, tmp_path, monkeypatch):
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-m", "services.cli", "pki", "init", "--encrypt"])
    said = b""
    for _ in range(2):
        while not re.search(rb"(Passphrase of|Repeat)[^\n]*: \Z", said):
            said += os.read(terminal, 1000)
        os.write(terminal, b"right and long\n")
        said += b"\n"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert b"right and long" not in said
    done("request", "client", "clinic-a")
    monkeypatch.setenv("ELSA_CA_PASSPHRASE", "right and long")
    done("sign", "clinic-a.csr")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sign", "nowhere.csr"), "nowhere.csr: cannot be read (No such file"),
        (("sign", "elsa-pki"), "elsa-pki: cannot be read (Is a directory)"),
        (("sign", "clinic-a.key"), "clinic-a.key: no request for a certificate in PEM"),
        (("sign", "clinic-a.csr", "--folder", "nowhere"), "nowhere: holds no authority"),
        (("sign", "clinic-a.csr", "-o", "nowhere/a.pem"), "nowhere/a.pem: cannot be written"),
        (("request", "client", "b", "--folder", "nowhere"), "nowhere/b.csr: cannot be written"),
        (("request", "root", "b"), "ROLE NAME: 'root/b' is no identity: ROLE/NAME, with a role of admin, edge"),
        (("request", "client", "../b"), "'../b' is no name"),
        (("request", "client", "b", "--host", "b.example"), "client b serves nobody"),
        (("request", "edge", "b", "--host", "b:7401"), "'b:7401' is no name of a host"),
        (("request", "edge", "b", "--host", "cloud.elsa.internal"), "is not edge b's"),
        (("renew", "clinic-a.csr", "--key", "clinic-a.key"), "clinic-a.csr: no certificate in PEM"),
        (("show", "nowhere"), "nowhere: cannot be read"),
        (("show", "text"), "text: neither certificate, request, list of revoked ones nor key"),
        (("show", "cut.pem"), "cut.pem: no certificate in PEM that can be read"),
        (("show", "clinic-a.csr", "--ca", "text"), "text: no certificate in PEM"),
        (("show", "clinic-a.csr", "--crl", "text"), "text: no list of revoked certificates in PEM"),
        (("init",), "elsa-pki: exists; choose a new --folder"),
        (("init", "--folder", "nowhere/pki"), "nowhere/pki: cannot be made (No such file"),
    ],
)
def test_what_cannot_be_used_is_refused_on_one_line(kept, fleet, arguments, said):
    Path("text").write_text("text")
    Path("cut.pem").write_text(Path("elsa-pki/ca.pem").read_text()[:200])
    assert said in kept(*arguments)


def test_commands_of_the_guide_work_in_its_order(done, monkeypatch):
    """All in one folder, as if every machine were this one; a command's continued line is joined."""
    monkeypatch.setenv("ELSA_CA_PASSPHRASE", "right and long")
    text = DOCS.read_text().replace("\\\n", " ")
    commands = [line.split("#")[0].split()[3:] for line in re.findall(r"^\$ elsa pki .*$", text, re.M)]
    assert {words[0] for words in commands} == {"init", "request", "sign", "renew", "revoke", "show"}
    for words in commands:
        done(*words)
