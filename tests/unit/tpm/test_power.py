"""The tables of power states and of what was last done to a TPM."""

import pytest

from swtpm_svc.tpm.power import STEPS, TRANSITIONS, Event, Last, Power, Step


@pytest.mark.parametrize(("event", "power"), [(Event.STOP, Power.STOPPED), (Event.SHUT_DOWN, Power.OFF)])
def test_power_can_go_from_every_state(event, power):
    assert {TRANSITIONS[state, event] for state in Power} == {power}


def test_what_power_on_failure_and_healing_lead_to():
    assert {state for state in Power if TRANSITIONS.get((state, Event.POWER_ON)) is Power.RUNNING} == {
        Power.OFF,
        Power.STOPPED,
        Power.FAILED,
    }
    assert (Power.RUNNING, Event.POWER_ON) not in TRANSITIONS  # its power goes first
    assert {TRANSITIONS.get((state, Event.FAILURE)) for state in Power} == {Power.FAILED, None}
    assert [state for state in Power if (state, Event.HEALING) in TRANSITIONS] == [Power.FAILED]
    assert TRANSITIONS[Power.FAILED, Event.HEALING] is Power.RUNNING


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("is_shut_down", [False, True])
def test_what_was_last_done_is_two_facts(is_shut_down, is_stored):
    """A Shutdown is undone by the next command, a stored state is no longer this moment's when anything is begun."""
    last = Last((is_shut_down, is_stored))
    assert (last.is_shut_down, last.volatile_is_stored) == (is_shut_down, is_stored)
    assert STEPS[last, Step.BEGIN].value == (is_shut_down, False)
    assert STEPS[last, Step.COMMAND].value == (False, False)
    assert STEPS[last, Step.SHUTDOWN].value == (True, False)
    assert STEPS[last, Step.STORE].value == (is_shut_down, True)


def test_the_table_of_steps_is_complete():
    assert set(STEPS) == {(last, step) for last in Last for step in Step}
