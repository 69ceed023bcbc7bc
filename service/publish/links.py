"""Links of a record: to its pull requests, and to its flags in the application of LaunchDarkly.

LaunchDarkly's API names the page of a flag in ``_site.href``, such as
``/default/production/features/alternate.page``: project, environment and flag, on the host of the
API (https://launchdarkly.com/docs/api/feature-flags). Its extension for VS Code opens the same.
"""

from collections.abc import Iterable

from service.enrich.steps import Steps
from service.publish.record import FlagLink, Links, PullRequestLink, PullRequestSummary, Summary
from service.url_part import quote_part

_FLAGS_PER_STEP = 4096
_WEB_SCHEMES = ("https://", "http://")


def build_links(
    summary: Summary, *, origin: str, project: str | None, environment: str | None
) -> Steps[Links]:
    """Return the links of a deployment; ``origin`` is that of LaunchDarkly, such as https://host.

    A flag of another project has none: nothing says that the project has this environment. A pull
    request has one if its URL is of the web: other schemes may run scripts.
    """
    if not (project and environment):
        return Links(pull_requests=_link_pull_requests(summary.pull_requests))
    prefix = f"{origin}/{quote_part(project)}/{quote_part(environment)}/features/"
    flags: list[FlagLink] = []
    for position, flag in enumerate(summary.flags, 1):
        if not position % _FLAGS_PER_STEP:
            yield
        if flag.project == project and flag.key:
            flags.append(FlagLink(flag.key, prefix + quote_part(flag.key)))
    return Links(pull_requests=_link_pull_requests(summary.pull_requests), flags=tuple(flags))


def _link_pull_requests(pull_requests: Iterable[PullRequestSummary]) -> tuple[PullRequestLink, ...]:
    return tuple(
        PullRequestLink(item.number, item.url)
        for item in pull_requests
        if item.url is not None and item.url.startswith(_WEB_SCHEMES)
    )
