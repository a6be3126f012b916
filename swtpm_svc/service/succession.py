"""From one process to the next: what a successor goes on with, what it owes the clients, and what it leaves in turn.

The parked memory (swtpm_svc/continuity) outlives the process. An orderly stop leaves a handover in it; a process that
was killed leaves only the ids of requests that nobody answered.
"""

from swtpm_svc.config.loading import Config
from swtpm_svc.continuity.handover import Handover
from swtpm_svc.continuity.parking import Park
from swtpm_svc.errors import VtpmError
from swtpm_svc.frontends.cuse.cuse_frontend import CuseFrontend
from swtpm_svc.service.description import Parts
from swtpm_svc.service.systemd.journal import RECOVERED_ID, RESUMED_ID, Journal
from swtpm_svc.tpm.power import Power
from swtpm_svc.tpm.tpm import Tpm
from swtpm_svc.wire import cuse as wire
from swtpm_svc.wire.hints import Optional


def resume(tpm: Tpm, handover: Handover, config: Config, journal: Journal) -> bool:
    """Go on with the TPM of a handover. False: it is to be powered on, and the clients of before meet another one."""
    if (handover.tpm_version, handover.state_directory) != (config.tpm.version, config.state.place):
        journal.log("notice", "another TPM is configured now: clients meet a TPM that was just powered on")
        return False
    if handover.snapshot.power == Power.OFF.value and config.tpm.power_on == "auto":
        return False  # it was waiting for INIT, and does not have to any more
    try:
        tpm.resume(handover.snapshot)
    except VtpmError as error:
        journal.error(error, level="warning")
        return False
    return True


def succeed(
    park: Park, handover: Optional[Handover], cuse: Optional[CuseFrontend], journal: Journal, *, resumed: bool
) -> "list[bytes]":
    """Take on what a predecessor owed its clients. Returns the requests that waited with it and are to be served."""
    unanswered, requests = park.unanswered(), []
    if handover is not None and resumed:
        requests = handover.requests
        again = {wire.unique_of(memoryview(frame)) for frame in requests}
        unanswered = [unique for unique in unanswered if unique not in again]
        for unique in again:  # until they are taken on: a kill before that would leave nobody to answer them
            park.waiters.add(unique)
        words = f"goes on where its predecessor stopped, {len(handover.openers)} openers"
        journal.log("info", words, message_id=RESUMED_ID)
    elif handover is None and park.was_adopted:
        words = f"its predecessor was killed: {len(unanswered)} requests get an I/O error, PCRs and sessions are lost"
        journal.log("warning", words, message_id=RECOVERED_ID)
    if cuse is not None:
        if handover is not None:
            cuse.adopt(handover.openers)
            if not resumed:
                cuse.lose(handover.requests)
        cuse.give_up(unanswered)
        cuse.wake_all(park.polls.take_over())
    park.forget()
    return requests


def leave(park: Park, parts: Parts) -> None:
    """For a successor: the TPM as it runs, the open files, and what waits."""
    cuse = parts.cuse
    park.leave(
        Handover(
            tpm_version=parts.tpm.version,
            state_directory=parts.config.state.place,
            commands=parts.dispatcher.commands,
            restarts=parts.restarts,
            snapshot=parts.tpm.snapshot(),
            openers=[record for record, _pending in cuse.openers()] if cuse is not None else [],
            requests=cuse.waiting() if cuse is not None else [],
        )
    )
