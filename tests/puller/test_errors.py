"""What every fault of the puller promises to those who read it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trainedmodel_contract.reasons import Reason
from trainedmodel_puller.errors import ServerFault, VolumeFault


@given(st.text(max_size=40))
def test_whatever_a_server_or_a_file_says_a_fault_is_one_printable_line(said: str) -> None:
    for fault in (
        ServerFault(Reason.LOAD_FAILED, f"the server has it from {said!s}"),
        VolumeFault(Reason.VOLUME_ERROR, f"{said} is in the way"),
    ):
        assert fault.message.isprintable()
        assert str(fault).isprintable()
        assert len(fault.message) >= len(said)
