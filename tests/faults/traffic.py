"""The webhooks of a storm, drawn from a seed. Pure."""

import random
from collections import deque
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from service.simulate.world import NewDeployment

KNOWN_ID_PREFIX = "a0eebc99-9c0b-4ef8-"
"""The prefix of all deployment ids that webhooks contain."""

PROJECTS, ENVIRONMENTS = ("default", "shop"), ("production", "staging")
_MAX_REMEMBERED = 2000
_HALF = 0.5


class TrafficConfig(Struct, frozen=True, kw_only=True):
    """The shares of the webhooks without an id and of those that repeat a deployment.

    ``reported_share`` is that of deployments that only the service reports; their
    source has ``report = true``, and a half of them begins with the webhook of a start. ``copies``
    are the minimum and maximum number of copies of each delivery, all sent at once.
    """

    without_id_share: float = 0.1
    repeated_share: float = 0.1
    reported_share: float = 0.0
    copies: tuple[int, int] = (2, 3)


class Webhook(Struct, frozen=True, kw_only=True):
    """One delivery: its job, its event and its number of copies.

    ``deployment`` must exist upstream before the webhook is sent. It is set when the event has no
    id. ``is_reported``: only the service reports it. ``has_start``: the webhook of
    its start is sent before.
    """

    delivery: str
    job: str
    event: dict[str, str]
    copies: int
    deployment: NewDeployment | None = None
    is_reported: bool = False
    has_start: bool = False


def draw_webhooks(seed: int, config: TrafficConfig) -> Iterator[Webhook]:
    """Yield webhooks without end. Equal seeds and configurations give equal webhooks."""
    rng = random.Random(f"webhooks {seed}")
    sent: deque[Webhook] = deque(maxlen=_MAX_REMEMBERED)
    number = 0
    while True:
        number += 1
        delivery, copies = f"{seed}-{number}", rng.randint(*config.copies)
        roll = rng.random()
        if sent and roll < config.repeated_share:
            earlier = rng.choice(sent)
            yield Webhook(delivery=delivery, job=earlier.job, event=earlier.event, copies=copies)
            continue
        if roll < config.repeated_share + config.without_id_share:
            webhook = _build_webhook_without_id(delivery, f"{seed:x}v{number:x}", copies, rng)
        elif roll >= 1 - config.reported_share:
            webhook = _build_reported_webhook(delivery, f"{seed:x}v{number:x}", copies, rng)
        else:
            deployment_id = f"{KNOWN_ID_PREFIX}{seed % 65536:04x}-{number:012x}"
            event = {
                "deploymentId": deployment_id,
                "projectKey": "default",
                "eventType": "finished",
            }
            webhook = Webhook(
                delivery=delivery, job=f"id:{deployment_id}", event=event, copies=copies
            )
            sent.append(webhook)
        yield webhook


def _build_reported_webhook(
    delivery: str, version: str, copies: int, rng: random.Random
) -> Webhook:
    webhook = _build_webhook_without_id(delivery, version, copies, rng)
    event = webhook.event | {"eventType": rng.choice(["finished", "finished", "failed"])}
    return replace(
        webhook, event=event, deployment=None, is_reported=True, has_start=rng.random() < _HALF
    )


def _build_webhook_without_id(
    delivery: str, version: str, copies: int, rng: random.Random
) -> Webhook:
    project, environment = rng.choice(PROJECTS), rng.choice(ENVIRONMENTS)
    application = rng.choice(["web", "mobile", "billing"])
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
