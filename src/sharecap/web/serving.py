"""`sharecap view`: opens a dataset, says where its page is, and serves it until it is interrupted."""

import os
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from socket import gethostname

from sharecap.errors import UsageError
from sharecap.images.catalog import Catalog

TOKEN_VARIABLE = "SHARECAP_VIEW_TOKEN"
"""Environment variable that fixes the token, so that links outlive the server."""


def serve_dataset(dataset: Path, host: str, port: int, runs: Sequence[Path], models: Sequence[str]) -> None:
    """Serve until interrupted. Beyond loopback, whoever comes needs the token that is printed."""
    try:
        from sharecap.web.app import listen, make_app, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("fastapi", "uvicorn", "starlette"):
            raise
        raise UsageError(f"the page needs {error.name}", todo="pip install 'sharecap[web]'") from None
    from sharecap.web.room import Room
    from sharecap.web.safety import LOOPBACK

    Catalog.open(dataset)
    for folder in runs:
        if not folder.is_dir():
            raise UsageError("no directory of runs there", where=folder)
    local = host in LOOPBACK
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token and not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", token):
        todo = "give it 16 to 200 letters, digits, '_' and '-', or unset it"
        raise UsageError(f"{TOKEN_VARIABLE} can't be a token", todo=todo)
    if not local and not token:
        token = secrets.token_urlsafe(18)
    socket = listen(host, port)
    port = socket.getsockname()[1]
    everywhere = host in ("", "0.0.0.0", "::")
    shown = gethostname() if everywhere else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}"
    room = Room.open(dataset, [folder.resolve() for folder in runs], models)
    # Names under which this machine is known elsewhere can't be listed; there the token guards.
    app = make_app(room, LOOPBACK if local else (), token)
    print(f"{dataset} at {address}/{'?token=' + token if token else ''}", flush=True)
    if not local:
        print("Whoever has this link can see and edit; raters get links of their own.", flush=True)
    serve(app, socket)
