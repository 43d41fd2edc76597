"""A vault is erased even if its server is killed again and again."""

import asyncio
import signal
from pathlib import Path

from tests.support.caller import calling
from tests.support.leaving import delete, fill, operation, tables_of
from tests.support.processes import serving_process

KEY = {"TOKEN_ENCRYPTION_KEY": "k" * 32}


async def test_a_server_that_is_killed_goes_on_erasing(tmp_path: Path) -> None:
    with serving_process(tmp_path, **KEY) as service:
        async with calling(service.target) as alice:
            await fill(alice, sessions=40)
            answer = await delete(alice)
            operation_id = answer.operation.operation_id
        service.process.send_signal(signal.SIGKILL)
    assert tables_of(tmp_path)["messages"] > 0
    assert "data_keys" not in tables_of(tmp_path)
    kills = 0
    while True:
        with serving_process(tmp_path, **KEY) as service:
            async with calling(service.target) as alice:
                await asyncio.sleep(0.05)
                done = (await operation(alice, operation_id)).done
            service.process.send_signal(signal.SIGKILL)
        kills += 1
        if done:
            break
        assert kills < 50
    assert tables_of(tmp_path).keys() == {"changes", "log_beginnings", "operations", "vault_states", "erased_vaults"}
