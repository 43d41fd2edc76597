"""The rotation of a running server's keys."""

import asyncio
import json
from typing import Any

import click
from metamorph_client import MetamorphClient
from metamorph_client.admin.v1.admin_service_pb2 import GetKeyRotationRequest, KeyRotation, RotateDataKeysRequest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from metamorphd.cli.operator import run_as_operator

LOOK_SECONDS = 0.5


def rotate_keys(*, wait: bool, as_json: bool, **given: Any) -> None:
    """Begins a rotation, and shows its progress until the end. Raises ClickException and StartupRefused."""

    async def rotated(client: MetamorphClient) -> bool:
        rotation = (await client.admin.RotateDataKeys(RotateDataKeysRequest())).rotation
        if wait:
            rotation = await _finished(client, rotation)
        _show(rotation, as_json=as_json)
        return not wait or not rotation.left_count

    run_as_operator(rotated, hints={}, **given)


def show_keys(*, as_json: bool, **given: Any) -> None:
    """Shows the state of the keys. Raises ClickException and StartupRefused."""

    async def shown(client: MetamorphClient) -> bool:
        _show((await client.admin.GetKeyRotation(GetKeyRotationRequest())).rotation, as_json=as_json)
        return True

    run_as_operator(shown, hints={}, **given)


async def _finished(client: MetamorphClient, rotation: KeyRotation) -> KeyRotation:
    """Returns the state once nothing is left that can be rewrapped."""
    columns = TextColumn("Rewrapping data keys"), BarColumn(), MofNCompleteColumn()
    notes = Console(stderr=True)
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task = progress.add_task("", total=rotation.left_count)
        while rotation.left_count > rotation.unavailable_count:
            await asyncio.sleep(LOOK_SECONDS)
            rotation = (await client.admin.GetKeyRotation(GetKeyRotationRequest())).rotation
            total = max(progress.tasks[task].total or 0, rotation.left_count)
            progress.update(task, total=total, completed=total - rotation.left_count)
    return rotation


def _show(rotation: KeyRotation, *, as_json: bool) -> None:
    since = rotation.key_time.ToJsonString() if rotation.HasField("key_time") else None
    if as_json:
        shown = {"key_id": rotation.key_id, "key_time": since}
        click.echo(json.dumps(shown | {"left": rotation.left_count, "unavailable": rotation.unavailable_count}))
        return
    click.echo(f"The current key is {rotation.key_id}, in use since {since or 'a time that the server does not know'}.")
    if not rotation.left_count:
        click.echo("It wraps every data key, so previous keys can be taken away once no backup needs them.")
    else:
        click.echo(f"{rotation.left_count} data keys are wrapped by other keys.")
    if rotation.unavailable_count:
        click.echo(f"{rotation.unavailable_count} of them need a key that the server does not have, or are damaged.")
