"""Which webhooks are sent? Drawn from a seed: thinks only."""

import random
from collections import deque
from collections.abc import Iterator

from msgspec import Struct

from service.simulate.world import NewDeployment

ASKED_BY_ID = "a0eebc99-9c0b-4ef8-"
"""So begin the ids of the deployments that are told with their id."""

_REMEMBERED = 2000


class Habits(Struct, frozen=True, kw_only=True):
    """Shares of the webhooks: to be found without an id, and about a deployment told of before.

    ``copies`` are the fewest and the most times that each delivery is sent, all at once.
    """

    to_find: float = 0.1
    again: float = 0.1
    copies: tuple[int, int] = (2, 3)


class Webhook(Struct, frozen=True, kw_only=True):
    """One delivery: the job that it asks for, what it says, and how often it is sent.

    ``deployment`` is what the upstream must know before, where no id is sent.
    """

    delivery: str
    job: str
    event: dict[str, str]
    copies: int
    deployment: NewDeployment | None = None


def draw_webhooks(seed: int, habits: Habits) -> Iterator[Webhook]:
    """Draw webhooks without end, the same ones for the same seed and habits."""
    dice = random.Random(f"webhooks {seed}")
    told: deque[Webhook] = deque(maxlen=_REMEMBERED)
    number = 0
    while True:
        number += 1
        delivery, copies = f"{seed}-{number}", dice.randint(*habits.copies)
        roll = dice.random()
        if told and roll < habits.again:
            before = dice.choice(told)
            yield Webhook(delivery=delivery, job=before.job, event=before.event, copies=copies)
            continue
        if roll < habits.again + habits.to_find:
            webhook = _make_found(delivery, f"{seed:x}v{number:x}", copies, dice)
        else:
            name = f"{ASKED_BY_ID}{seed % 65536:04x}-{number:012x}"
            event = {"deploymentId": name, "projectKey": "default", "eventType": "finished"}
            webhook = Webhook(delivery=delivery, job=f"id:{name}", event=event, copies=copies)
            told.append(webhook)
        yield webhook


def _make_found(delivery: str, version: str, copies: int, dice: random.Random) -> Webhook:
    project, environment = dice.choice(["default", "shop"]), dice.choice(["production", "staging"])
    application = dice.choice(["web", "mobile", "billing"])
    return Webhook(
        delivery=delivery,
        job=f"find:{project}/{environment}/{application}/{version}",
        event={
            "projectKey": project,
            "environmentKey": environment,
            "applicationKey": application,
            "version": version,
            "eventType": "finished",
        },
        copies=copies,
        deployment=NewDeployment(
            project=project, environment=environment, application=application, version=version
        ),
    )
