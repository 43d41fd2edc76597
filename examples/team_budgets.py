"""Limits the tokens that a team and each user have a day: `python examples/team_budgets.py web 2000 500`.

METAMORPH_OPERATOR_TOKEN is an operator's token, METAMORPH_TOKEN that of a user of the vault that is limited."""

import asyncio
import os
import sys

from metamorph_client import MetamorphClient, MetamorphError
from metamorph_client.admin.v1.admin_service_pb2 import UpdateVaultLimitsRequest
from metamorph_client.vault.v1.usage_pb2 import Budget, LabelBudget
from metamorph_client.vault.v1.vault_service_pb2 import GetUsageRequest, GetVaultRequest

TARGET = os.environ.get("METAMORPH_TARGET", "localhost:50051")
MOST_SENDS = 20


async def limit(operator: MetamorphClient, client: MetamorphClient, label: str, of_team: int, of_user: int) -> None:
    """Sets the tokens per day of a label, and of each user who has no budget of their own."""
    vault = (await client.vault.GetVault(GetVaultRequest())).vault
    # An update replaces all of the operator's budgets of users and labels, so it starts from what there is.
    budgets = vault.operator_subject_budgets
    others = [each for each in budgets.labels if each.label != label]
    del budgets.labels[:]
    budgets.labels.extend([*others, LabelBudget(label=label, budget=Budget(tokens_per_day=of_team))])
    budgets.default_user.tokens_per_day = of_user
    request = UpdateVaultLimitsRequest()
    request.limits.vault_id = vault.vault_id
    request.limits.subject_budgets.CopyFrom(budgets)
    request.update_mask.paths.append("subject_budgets")
    await operator.admin.UpdateVaultLimits(request)


async def spend(client: MetamorphClient, team: str) -> None:
    """Sends messages for a team until a budget refuses one."""
    # The labels of a session are those of all its turns, and no send can give them other values.
    session = await client.create_session(labels={"team": team})
    for count in range(1, MOST_SENDS + 1):
        try:
            reply = await client.start(session.session_id, f"Message {count}")
        except MetamorphError as error:
            if error.reason != "BUDGET_EXCEEDED":
                raise
            hours = (error.retry_delay or 0) / 3600
            print(f"message {count} is refused: {error.metadata['subject']} has no tokens for {hours:.1f} hours")
            return
        usage = (await reply.final()).usage
        print(f"message {count} used {usage.input_tokens + usage.output_tokens} tokens")


async def main(team: str, of_team: int, of_user: int) -> None:
    async with (
        MetamorphClient(TARGET, token=os.environ["METAMORPH_OPERATOR_TOKEN"]) as operator,
        MetamorphClient(TARGET, token=os.environ["METAMORPH_TOKEN"]) as client,
    ):
        await limit(operator, client, f"team={team}", of_team, of_user)
        await spend(client, team)
        usage = await client.vault.GetUsage(GetUsageRequest(label=f"team={team}"))
    for status in usage.budgets:
        whose = status.label or status.user_id or "the vault"
        print(f"{whose}: {status.used} of {status.limit} {status.budget} used, {status.left} left")


match sys.argv[1:]:
    case [team, of_team, of_user] if of_team.isdecimal() and of_user.isdecimal():
        asyncio.run(main(team, int(of_team), int(of_user)))
    case _:
        sys.exit("usage: python examples/team_budgets.py TEAM TOKENS_OF_TEAM TOKENS_OF_USER")
