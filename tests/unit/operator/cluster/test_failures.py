"""Why a container does not work, out of a pod's status."""

from __future__ import annotations

from typing import Any

from mailarray_operator.cluster import trim

SENTENCE = "the volume /var/lib/mailarray/volume-1 cannot be used: Input/output error"
WORDS = f'{{"level": "info", "message": "process starts"}}\nmailarray: {SENTENCE}\n'
ENDED = {"terminated": {"exitCode": 1, "reason": "Error", "message": WORDS}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting"}}


def failures(**container: Any) -> dict[str, str]:
    status = {"containerStatuses": [{"name": "smtp-1", "ready": False, **container}]}
    pod = trim.pod({"metadata": {"name": "mail-0", "uid": "u"}, "status": status}, {})
    return dict(pod.failures)


def test_the_last_words_say_why_and_stay_the_same_from_try_to_try() -> None:
    said = {"smtp-1": SENTENCE}
    assert failures(state=ENDED) == said
    assert failures(state=BACK_OFF, lastState=ENDED) == said
    assert failures(state={"running": {}}, lastState=ENDED) == said
    assert failures(state={"running": {}}, lastState=ENDED, ready=True) == {}


def test_without_words_the_exit_code_tells() -> None:
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    assert failures(state=BACK_OFF, lastState=killed) == {
        "smtp-1": "container smtp-1: ended with exit code 137, OOMKilled"
    }
    image = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    assert failures(state=image) == {"smtp-1": "container smtp-1: ErrImagePull: not found"}


def test_a_container_that_starts_has_not_failed() -> None:
    assert failures(state={"waiting": {"reason": "ContainerCreating"}}) == {}
    assert failures(state={"running": {}}) == {}
    status = {"containerStatuses": [{"name": "smtp-1", "started": True}, {"name": "smtp", "started": False}]}
    assert trim.pod({"metadata": {"name": "mail-0", "uid": "u"}, "status": status}, {}).started == {"smtp-1"}
