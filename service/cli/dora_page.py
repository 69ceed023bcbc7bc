"""The page of deploy/examples/dora, which the demo of a checkout shows."""

import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from service.log import EventLogger
from service.metrics.http import serve_app

DORA_FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "dora"

_SERVICE_FOLDER = Path(__file__).resolve().parents[1]
_CLIENT_PACKAGE, _DORA_PACKAGE = "deployment_enricher_client", "dora"


@asynccontextmanager
async def serve_dora_page(
    redis_url: str, *, namespace: str, period: str, log: EventLogger
) -> AsyncIterator[str]:
    """Serve the page while the context lasts; yield its URL, or an empty text without a checkout.

    ``period`` is the period that the page shows first.
    """
    if not DORA_FOLDER.is_dir():
        yield ""
        return
    dora = import_dora()
    reader = dora.reader.Reader(redis_url, namespace=namespace)
    app = dora.server.DoraServer(reader, default_period=period).app()
    async with serve_app(app, host="127.0.0.1", port=0, log=log, shutdown_timeout_s=0.1) as url:
        yield url


def import_dora() -> ModuleType:
    """Return the package of the example, with its modules ``reader`` and ``server``.

    It imports the client by the name under which consumers install it. Where the client is not
    installed, its files in this package take that name, as they do in the distribution.
    """
    if find_spec(_CLIENT_PACKAGE) is None:
        _import_package(
            _CLIENT_PACKAGE, _SERVICE_FOLDER / "client" / "distribution.py", _SERVICE_FOLDER
        )
    dora = sys.modules.get(_DORA_PACKAGE) or _import_package(
        _DORA_PACKAGE, DORA_FOLDER / "__init__.py", DORA_FOLDER
    )
    importlib.import_module(f"{_DORA_PACKAGE}.server")
    return dora


def _import_package(name: str, init_file: Path, folder: Path) -> ModuleType:
    """Import a package from files that are not on the module search path."""
    spec = spec_from_file_location(name, init_file, submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{init_file} is not a Python file")
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
