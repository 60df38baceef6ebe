"""From the words after `--teacher` to a captioner: `http(s)://…/v1#MODEL`, `openai:MODEL`, `local:DIRECTORY`,
and `batch:` before one of the first two for the Batch API of the same server.

Keys come from the environment, never from arguments, and never reach a log, a ledger or a manifest.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from sharecap.captions.captioner import Captioner
from sharecap.errors import UsageError

if TYPE_CHECKING:
    from sharecap.captions.teachers.endpoint import Endpoint

KEY_VARIABLE = "OPENAI_API_KEY"
_FORMS = "give http(s)://HOST/v1#MODEL, openai:MODEL, batch: before one of these, or local:DIRECTORY"


def open_teacher(
    spec: str,
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 300.0,
    concurrency: int = 16,
    batch_size: int = 64,
) -> Captioner:
    """The captioner that `spec` names; `UsageError` if it names none.

    `timeout_s` bounds one request to an endpoint, `concurrency` its connections, `batch_size` the images per
    batch of a local captioner.
    """
    environment = os.environ if environment is None else environment
    in_batches = spec.startswith("batch:")
    spec = spec.removeprefix("batch:")
    if spec.startswith(("http://", "https://")):
        from sharecap.captions.teachers.batch import BatchTeacher
        from sharecap.captions.teachers.endpoint import Endpoint

        url = _split(spec)
        if not url.hostname or not url.fragment:
            raise UsageError("the teacher's address names no model", where=_bare(spec), todo=_FORMS)
        if url.username or url.password or url.query:
            todo = f"put the key into the environment variable {KEY_VARIABLE}"
            raise UsageError("no keys in the teacher's address", where=_bare(spec), todo=todo)
        base = f"{url.scheme}://{url.netloc}{url.path.rstrip('/')}"
        kind = BatchTeacher if in_batches else Endpoint
        return kind(base, url.fragment, _key(environment), timeout_s=timeout_s, concurrency=concurrency)
    form, _, rest = spec.partition(":")
    if form == "openai" and rest:
        from sharecap.captions.teachers.batch import BatchTeacher
        from sharecap.captions.teachers.endpoint import OPENAI, Endpoint

        key = _key(environment)
        if not key:
            todo = f"set the environment variable {KEY_VARIABLE}"
            raise UsageError("no API key for openai", todo=todo)
        kind = BatchTeacher if in_batches else Endpoint
        return kind(
            OPENAI,
            rest,
            key,
            limit_field="max_completion_tokens",
            timeout_s=timeout_s,
            concurrency=concurrency,
        )
    if form == "local" and rest and not in_batches:
        from sharecap.captions.teachers.local import LocalCaptioner

        return LocalCaptioner(Path(rest), batch_size=batch_size)
    raise UsageError("unknown teacher", where=repr(spec), todo=_FORMS)


def open_endpoint(
    spec: str, work: str, *, concurrency: int = 16, environment: Mapping[str, str] | None = None
) -> "Endpoint":
    """The endpoint that `spec` names, for work with words alone; `UsageError` if it names something else."""
    from sharecap.captions.teachers.batch import BatchTeacher
    from sharecap.captions.teachers.endpoint import Endpoint

    found = open_teacher(spec, concurrency=concurrency, environment=environment)
    if not isinstance(found, Endpoint) or isinstance(found, BatchTeacher):
        todo = "give http(s)://…/v1#MODEL"
        raise UsageError(f"only an endpoint can {work}", where=found.name, todo=todo)
    return found


def _key(environment: Mapping[str, str]) -> str:
    key = environment.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UsageError(f"{KEY_VARIABLE} holds characters that no key has", todo="set it anew")
    return key


def _split(spec: str) -> SplitResult:
    try:
        url = urlsplit(spec)
        _ = url.port  # reading it checks it
    except ValueError:
        raise UsageError("the teacher's address is no URL", todo=_FORMS) from None
    return url


def _bare(spec: str) -> str:
    """`spec` without user, password and query, to be shown."""
    url = _split(spec)
    host = url.netloc.rpartition("@")[2]
    return f"{url.scheme}://{host}{url.path}" + (f"#{url.fragment}" if url.fragment else "")
