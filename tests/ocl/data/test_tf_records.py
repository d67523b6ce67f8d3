"""Checksums, record files and Example messages, against other implementations where there are any."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow
from tensorboard.summary.writer.record_writer import RecordWriter

from ocl.data.crc32c import crc32c, masked
from ocl.data.tf_examples import Example
from ocl.data.tf_records import GzipRecords, TFRecordFile


def example_message():
    """tf.train.Example as the protobuf package builds it from the published schema."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    kind = descriptor_pb2.FieldDescriptorProto
    for name, number in (
        ("BytesList", kind.TYPE_BYTES),
        ("FloatList", kind.TYPE_FLOAT),
        ("Int64List", kind.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=number, label=kind.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, of) in enumerate(
        (("bytes_list", "BytesList"), ("float_list", "FloatList"), ("int64_list", "Int64List")), start=1
    ):
        feature.field.add(
            name=name, number=number, type=kind.TYPE_MESSAGE, type_name=f".t.{of}", label=1, oneof_index=0
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING, label=1)
    entry.field.add(name="value", number=2, type=kind.TYPE_MESSAGE, type_name=".t.Feature", label=1)
    features.field.add(name="feature", number=1, type=kind.TYPE_MESSAGE, type_name=".t.Features.FeatureEntry", label=3)
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=kind.TYPE_MESSAGE, type_name=".t.Features", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


Message = example_message()


def write(path: Path, records: list[bytes]) -> bytes:
    """With TensorBoard's writer."""
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)
    return path.read_bytes()


def test_checksum_of_published_vectors_and_of_another_implementation():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0
    data = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    for count in (1, 2, 8, 511, 512, 513, 1024, 1025, 4097, 20_000):
        assert crc32c(data[:count]) == pywrap_tensorflow.crc32c(data[:count])
        assert masked(crc32c(data[:count])) == pywrap_tensorflow.masked_crc32c(data[:count])


def test_examples_equal_those_of_protobuf():
    rng = np.random.default_rng(1)
    integers = [0, 1, 127, 128, 300, 2**40, 2**63 - 1, -1, -(2**63)]
    floats = rng.normal(size=7).astype(np.float32)
    frames = [rng.bytes(length) for length in (0, 1, 300, 70_000)]
    pixels = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    message = Message()
    message.features.feature["video"].bytes_list.value.extend(frames)
    message.features.feature["numbers"].int64_list.value.extend(integers)
    message.features.feature["no numbers"].int64_list.SetInParent()
    message.features.feature["factors"].float_list.value.extend(floats)
    message.features.feature["whole"].bytes_list.value.append(pixels.tobytes())
    message.features.feature["byte by byte"].bytes_list.value.extend(bytes([value]) for value in pixels.flatten())
    example = Example(message.SerializeToString())
    assert example.names == sorted(message.features.feature)
    assert [bytes(frame) for frame in example.texts("video")] == frames
    assert example.integers("numbers").tolist() == integers
    assert example.integers("no numbers").tolist() == []
    assert np.array_equal(example.floats("factors"), floats)
    assert np.array_equal(example.pixels("whole", 4, 5, 3), pixels)
    assert np.array_equal(example.pixels("byte by byte", 4, 5, 3), pixels)
    # One string whose bytes look like a list of single bytes is still one string.
    message.features.feature["whole"].bytes_list.value[0] = b"\x0a\x01\x07" * 20
    assert Example(message.SerializeToString()).pixels("whole").tolist() == [10, 1, 7] * 20
    with pytest.raises(ValueError, match=r"60 values of 'whole', which do not fill \(4, 4\)"):
        example.pixels("whole", 4, 4)
    with pytest.raises(ValueError, match="no floats 'numbers'; they are integers"):
        example.floats("numbers")
    with pytest.raises(ValueError, match="no bytes 'depth'; it holds byte by byte, factors"):
        example.texts("depth")
    for damaged in (message.SerializeToString()[:-3], b"\x0a\xff", b"\x0b", b"\x0a" + b"\xff" * 12, b"nonsense"):
        with pytest.raises(ValueError, match=r"no tf\.train\.Example"):
            Example(damaged)


def test_plain_files_are_read_in_any_order(tmp_path):
    rng = np.random.default_rng(2)
    records = [rng.bytes(length) for length in (5, 0, 1000, 100_000)]
    path = tmp_path / "a.tfrecord"
    whole = write(path, records)
    file = TFRecordFile(path)
    assert len(file) == 4
    assert [bytes(file[i]) for i in (3, 0, 2, 1)] == [records[i] for i in (3, 0, 2, 1)]
    assert bytes(pickle.loads(pickle.dumps(file))[2]) == records[2]
    file.verify()
    changed = bytearray(whole)
    changed[12 + 5 + 4 + 16 + 12 + 500] ^= 1  # in the third record
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=r"Record 2 of .*a\.tfrecord is not what its checksum says"):
        TFRecordFile(path).verify()
    for cut, number in ((len(whole) - 1, 3), (len(whole) - 50_000, 3), (12 + 4, 0)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=f"cut off in record {number}"):
            TFRecordFile(path)
    for damaged in (whole[:5], struct.pack("<QI", 5, 0) + whole[12:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="length of a record is damaged"):
            TFRecordFile(path)
    path.write_bytes(gzip.compress(whole))
    with pytest.raises(ValueError, match="it is compressed, so read it with GzipRecords"):
        TFRecordFile(path)
    path.unlink()
    for reader in (TFRecordFile, GzipRecords):
        with pytest.raises(FileNotFoundError, match="is missing; see the card"):
            reader(path)


def test_compressed_files_are_read_in_order(tmp_path):
    rng = np.random.default_rng(3)
    records = [rng.bytes(length) for length in (5, 0, 1000, 70_000)]
    path = tmp_path / "a.tfrecords"
    whole = write(path, records)
    path.write_bytes(gzip.compress(whole))
    stream = GzipRecords(path)
    assert list(stream) == records
    assert [stream[i] for i in (1, 3, 0, 2)] == [records[i] for i in (1, 3, 0, 2)]
    assert pickle.loads(pickle.dumps(stream))[1] == records[1]
    with pytest.raises(IndexError, match="ends after 4 records"):
        stream[4]
    changed = bytearray(whole)
    changed[12 + 2] ^= 1
    path.write_bytes(gzip.compress(changed))
    with pytest.raises(ValueError, match="Record 0 of"):
        GzipRecords(path)[0]
    path.write_bytes(gzip.compress(whole[:-1]))
    with pytest.raises(ValueError, match="cut off in record 3"):
        GzipRecords(path)[3]
    path.write_bytes(gzip.compress(whole)[:-20_000])
    with pytest.raises(ValueError, match="no whole GZIP file"):
        GzipRecords(path)[3]
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="no whole GZIP file"):
        GzipRecords(path)[0]
