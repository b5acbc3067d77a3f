"""Manifests: what is sent comes back, what breaks the contract is named, and digests tell bases apart."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elsa.errors import MalformedError
from elsa.v1 import split_pb2 as pb
from elsa.wire.chunks import MAX_MESSAGE_BYTES
from elsa.wire.manifest import (
    DTYPES,
    ITEM_BYTES,
    MOST_FILES,
    MOST_TENSORS,
    Entry,
    Manifest,
    TensorEntry,
    manifest_from_proto,
    manifest_to_proto,
    tensors_sha256,
)

digests = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
words = st.from_regex(r"[A-Za-z0-9_]{1,12}", fullmatch=True)
names = st.lists(words, min_size=1, max_size=5).map(".".join)


@st.composite
def tensors(draw):
    dtype, shape = (
        draw(st.sampled_from(sorted(DTYPES))),
        tuple(draw(st.lists(st.integers(1, 2**20), min_size=1, max_size=4))),
    )
    size = ITEM_BYTES[dtype]
    for length in shape:
        size *= length
    if size >= 2**64:
        dtype, shape, size = "I8", (1,), 1
    return TensorEntry(name=draw(names), dtype=dtype, shape=shape, size_bytes=size, sha256=draw(digests))


@st.composite
def manifests(draw):
    found = draw(st.lists(tensors(), max_size=6, unique_by=(lambda t: t.sha256, lambda t: t.name)))
    ends = draw(st.integers(0, len(found)))
    files = [Entry(name=t.name, size_bytes=t.size_bytes % (1 << 26), sha256=t.sha256) for t in found[:ends]]
    return Manifest(
        files=tuple(sorted(files, key=lambda file: file.name)),
        tensors=tuple(sorted(found[ends:], key=lambda tensor: tensor.name)),
        trunk_sha256=draw(digests),
    )


@given(manifests())
def test_what_is_sent_comes_back(manifest):
    message = pb.BaseManifest.FromString(manifest_to_proto(manifest).SerializeToString())
    assert manifest_from_proto(message) == manifest


def one(**changes):
    fields = {"name": "a.b", "dtype": "F32", "shape": (2, 3), "size_bytes": 24, "sha256": "0" * 64}
    return TensorEntry(**{**fields, **changes})


def message(**changes):
    """A good manifest but for `changes` of its tensor."""
    made = manifest_to_proto(Manifest(files=(), tensors=(one(),), trunk_sha256="0" * 64))
    entry = made.tensors[0]
    for field, value in changes.items():
        if field == "shape":
            entry.shape[:] = value
        else:
            setattr(entry, field, value)
    return made


FAULTS = {
    "slash": ({"name": "a/b"}, "name"),
    "up": ({"name": "a..b"}, "name"),
    "absolute": ({"name": "/a"}, "name"),
    "dot": ({"name": ".a"}, "name"),
    "empty": ({"name": ""}, "name"),
    "newline": ({"name": "a\n"}, "name"),
    "long": ({"name": "a" * 129}, "name"),
    "dtype": ({"dtype": 0}, "dtype"),
    "dtype unknown": ({"dtype": 99}, "dtype"),
    "no shape": ({"shape": []}, "shape"),
    "zero": ({"shape": [0, 3]}, "shape"),
    "five": ({"shape": [1] * 5}, "shape"),
    "size": ({"size_bytes": 23}, "size_bytes"),
    "digest": ({"sha256": "A" * 64}, "sha256"),
    "short digest": ({"sha256": "a" * 63}, "sha256"),
    "digest as a path": ({"sha256": "../" + "a" * 61}, "sha256"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_breaks_the_contract_is_named(fault):
    changes, field = FAULTS[fault]
    with pytest.raises(MalformedError, match=rf"manifest\.tensors\[0\]\.{field}"):
        manifest_from_proto(message(**changes))


def test_files_are_held_to_the_same():
    made = pb.BaseManifest(trunk_sha256="0" * 64, files=[pb.FileEntry(name="config.json", sha256="0" * 64)])
    manifest_from_proto(made)
    for name in ("../config.json", "a/b", "c\\d", "", ".", ".."):
        made.files[0].name = name
        with pytest.raises(MalformedError, match=r"files\[0\]\.name"):
            manifest_from_proto(made)
    made.files[0].name, made.files[0].size_bytes = "config.json", (64 << 20) + 1
    with pytest.raises(MalformedError, match="size_bytes"):
        manifest_from_proto(made)


def test_entries_come_in_order_each_once_and_not_too_many():
    for second in ("a.a", "a.b"):
        made = message()
        made.tensors.add().CopyFrom(made.tensors[0])
        made.tensors[1].name = second
        with pytest.raises(MalformedError, match="in order"):
            manifest_from_proto(made)
    made = pb.BaseManifest(files=[pb.FileEntry()] * (MOST_FILES + 1))
    with pytest.raises(MalformedError, match="files: 33"):
        manifest_from_proto(made)
    made = pb.BaseManifest(tensors=[pb.TensorEntry()] * (MOST_TENSORS + 1))
    with pytest.raises(MalformedError, match="tensors: 4097"):
        manifest_from_proto(made)


def test_one_digest_has_one_size():
    made = message()
    made.files.append(pb.FileEntry(name="config.json", size_bytes=23, sha256="0" * 64))
    with pytest.raises(MalformedError, match="two sizes"):
        manifest_from_proto(made)


def test_the_largest_manifest_fits_in_a_message():
    names = [f"{number:04d}{'x' * 124}" for number in range(MOST_TENSORS)]
    wide = {"dtype": "I64", "shape": (2**14,) * 4, "size_bytes": 8 * 2**56, "sha256": "f" * 64}
    manifest = Manifest(files=(), tensors=tuple(one(name=name, **wide) for name in names), trunk_sha256="f" * 64)
    answer = pb.FetchBlocksResponse(manifest=manifest_to_proto(manifest))
    assert answer.ByteSize() < MAX_MESSAGE_BYTES


@given(st.lists(tensors(), min_size=1, max_size=5, unique_by=lambda t: t.name), st.randoms(use_true_random=False))
def test_the_digest_of_tensors_knows_no_order_and_misses_no_change(entries, draw):
    digest, shuffled = tensors_sha256(entries), list(entries)
    draw.shuffle(shuffled)
    assert tensors_sha256(shuffled) == digest
    first, *rest = entries
    other = "f" * 64 if first.sha256 != "f" * 64 else "e" * 64
    for changed in (
        replace(first, name=first.name + "x"),
        replace(first, sha256=other),
        replace(first, shape=(*first.shape, 1)),
        replace(first, dtype="U8" if first.dtype != "U8" else "I8"),
    ):
        assert tensors_sha256([changed, *rest]) != digest
    assert tensors_sha256(rest) != digest
