"""Events as TensorBoard reads them."""

import resource
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from rvae_jax.training.event_file import EventFile


def events_of(folder):
    (path,) = folder.iterdir()
    content, events = path.read_bytes(), []
    while content:
        (length,) = struct.unpack_from("<Q", content)
        events.append(event_pb2.Event.FromString(content[12 : 12 + length]))
        content = content[12 + length + 4 :]
    return events


def test_what_is_written_is_read_with_step_and_name(tmp_path):
    events = EventFile(tmp_path / "events", purge_step=5)
    events.scalar(5, "loss/total", 0.25)
    events.image(6, "samples", np.full((2, 3, 1), 7, np.uint8))
    events.close()
    version, _, start, scalar, image = events_of(tmp_path / "events")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, event_pb2.SessionLog.START)
    assert (scalar.step, scalar.summary.value[0].tag, scalar.summary.value[0].simple_value) == (5, "loss/total", 0.25)
    assert (image.step, image.summary.value[0].image.height, image.summary.value[0].image.width) == (6, 2, 3)
    assert image.wall_time >= scalar.wall_time > 0


def test_a_disk_without_room_is_an_error_in_the_thread_that_writes(tmp_path):
    """As often as it is tried: a run must neither wait for a writer that is gone, nor go on without a word."""
    events = EventFile(tmp_path / "events")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for _ in range(30):
            with pytest.raises(OSError, match="File too large"):
                for _ in range(100):
                    events.scalar(1, "loss/total", 0.25)
                    events.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        events.close()
