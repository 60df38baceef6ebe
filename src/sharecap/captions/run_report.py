"""What a captioning run says when it has come to its end: counts, money, and the same for people."""

from dataclasses import dataclass, field

from sharecap.captions.ledger import InFlight
from sharecap.captions.plan import Forecast, Plan, Survey
from sharecap.captions.price import Price
from sharecap.images.dataset import layer_path


@dataclass(frozen=True)
class RunReport:
    """What the layer holds and what it took. Money is None where no price is known."""

    layer: str
    path: str
    images: int
    captions: int
    failures: dict[str, int]  # kind -> images without a caption
    requests: int  # sent in this run; 0: all was there
    kept: int  # images that earlier runs had settled
    in_flight: int  # requests that were out when the run before was killed, and may be charged twice
    in_flight_usd: float | None  # what those can have cost
    cost_usd: float | None  # of all answers, over all runs
    doubtful: int  # attempts, over all runs, that may be on the bill though no answer was seen
    doubtful_usd: float | None  # their worst case
    prompt_tokens: int
    completion_tokens: int
    seconds: float  # of this run
    remedies: dict[str, int] = field(default_factory=dict)  # "KIND:REMEDY" -> requests that took this step
    rescued: int = 0  # captions that the first answer was not
    canary_requests: int = 0  # over all runs; their cost is part of the cost
    canary_usd: float | None = None


def report_of(
    wanted: Plan,
    layer: str,
    *,
    before: Survey,
    after: Survey,
    in_flight: InFlight,
    requests: int,
    price: Price | None,
    canary: tuple[float, int],
    seconds: float,
) -> RunReport:
    """The report, from the ledger as it was `before` the run and is `after` it."""
    canary_usd, canary_requests = canary
    return RunReport(
        layer=layer,
        path=str(layer_path(wanted.catalog.dataset, layer)),
        images=after.images,
        captions=after.done,
        failures=dict(sorted(after.failures.items())),
        requests=requests,
        kept=before.images - before.open,
        in_flight=in_flight.requests,
        in_flight_usd=in_flight.usd,
        cost_usd=after.cost_usd + canary_usd if price else None,
        doubtful=after.doubtful,
        doubtful_usd=after.doubtful_usd if price else None,
        prompt_tokens=after.prompt_tokens,
        completion_tokens=after.completion_tokens,
        seconds=seconds,
        remedies=dict(sorted(after.remedies.items())),
        rescued=after.rescued,
        canary_requests=canary_requests,
        canary_usd=canary_usd if price else None,
    )


def report_lines(report: RunReport) -> list[str]:
    """For people."""
    lines = [f"layer {report.layer}: {report.captions:,} captions of {report.images:,} images"]
    if report.failures:
        lines.append("failed: " + ", ".join(f"{n:,} {kind}" for kind, n in report.failures.items()))
    sent = f"{report.requests:,} requests" if report.requests else "nothing to send"
    lines.append(f"{sent}; {report.kept:,} images were settled before")
    if report.in_flight:
        usd = "" if report.in_flight_usd is None else f", for at most ${report.in_flight_usd:.4f}"
        lines.append(f"in flight when the last run was killed: {report.in_flight} (may be billed twice{usd})")
    if report.remedies:
        steps = ", ".join(f"{n:,} {step.replace(':', ' ')}" for step, n in report.remedies.items())
        lines.append(f"remedies: {steps}; {report.rescued:,} captions came of them")
    if report.canary_requests:
        usd = "" if report.canary_usd is None else f", ${report.canary_usd:.4f}"
        lines.append(f"canary: {report.canary_requests} requests{usd}")
    lines.append(f"tokens: {report.prompt_tokens:,} in, {report.completion_tokens:,} out")
    if report.cost_usd is not None:
        lines.append(f"cost: ${report.cost_usd:.4f}")
    if report.doubtful:
        usd = "" if report.doubtful_usd is None else f", at most ${report.doubtful_usd:.4f}"
        lines.append(f"without an answer, but perhaps billed: {report.doubtful} requests{usd}")
    return [*lines, f"in {report.path}"]


def forecast_lines(expected: Forecast) -> list[str]:
    """For people."""
    lines = [f"layer {expected.layer}: {expected.requests:,} requests for {expected.images:,} images"]
    if expected.kept:
        lines.append(f"{expected.kept:,} images are settled already")
    if expected.worst_usd is None:
        lines.append("cost: not known without --price IN,OUT")
    else:
        lines.append(f"cost: at most ${expected.worst_usd:.4f} (each request at its bound, answered at once)")
    return [*lines, "first prompt:", *(f"  {line}" for line in expected.prompt.splitlines())]
