"""The flags that every command takes: where to look. They may stand before and after the command's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from mailarray_operator.kubectl.kubectl import Kubectl, Target

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("-n", "--namespace"), "namespace", "Namespace; the context's own when left out."),
    (("--context",), "context", "Context of the kubeconfig."),
    (("--kubeconfig",), "kubeconfig", "The kubeconfig file."),
    (("--user",), "user", "User of the kubeconfig."),
    (("--as",), "as_user", "User to act as."),
    (("--cluster",), "cluster", "Name of the MailCluster, when there are several."),
)


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    target = context.ensure_object(Target)
    if value is not None:
        assert parameter.name is not None
        setattr(target, parameter.name, value)


def target_options(function: F) -> F:
    """Add the flags to a command or a group."""
    for flags, name, text in reversed(_OPTIONS):
        function = click.option(*flags, name, help=text, expose_value=False, callback=_remember)(function)
    return function


output_option = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="For people, or for programs.",
)


def kubectl() -> Kubectl:
    """kubectl with the flags of the running command."""
    target = click.get_current_context().find_object(Target)
    assert target is not None
    return Kubectl(target)
