"""`python dev.py test`: the style, then every test lane, on every host; or a part of them."""

import argparse
import sys
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import closing

from .console import Failure, end_in_order, say
from .lanes import KINDS, ON_HOSTS, lanes, part, versions
from .progress import Board, Run, let_lanes_be_interrupted, stop

COUNTED = ("passed", "failed", "skipped")
AT_ONCE = 2  # lanes side by side, one thread each
EXAMPLES = """\
  python dev.py test core ruff                     what needs no ComfyUI
  python dev.py test tests/host/test_rows.py       one file, on both releases
  python dev.py test host --host 0.30.0 -- -x      one release, until the first failure

The packs lane needs RLG_PACKS=<folder of third-party packs>."""


def options(arguments):
    """Return the options of the command line (parts, host, pytest's arguments), or end with the usage."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        prog="python dev.py test",
        usage="python dev.py test [PART ...] [--host VERSION] [-- PYTEST_ARGUMENT ...]",
        description="Run every test, or the named parts, on both supported releases of ComfyUI (or on your own).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parts = f"one of {', '.join(KINDS)}, or a path below tests/, with ::name or without"
    parser.add_argument("parts", nargs="*", type=part, metavar="PART", help=parts)
    parser.add_argument("--host", metavar="VERSION", default="", help="test on this release alone")
    chosen = parser.parse_intermixed_args(arguments[:cut])
    chosen.pytest = arguments[cut + 1 :]
    refuse_what_nothing_takes(parser, chosen)
    return chosen


def refuse_what_nothing_takes(parser, chosen):
    """End with the usage where an option fits none of the chosen parts, or names a host that is not there."""
    kinds = {kind for kind, _ in chosen.parts} or set(KINDS)
    if chosen.pytest and kinds == {"ruff"}:
        parser.error("ruff takes no arguments of pytest's")
    if not chosen.host:
        return
    if not kinds & set(ON_HOSTS):
        parser.error(f"--host is for {', '.join(ON_HOSTS)}; no host is needed for {' and '.join(sorted(kinds))}")
    if chosen.host not in (known := versions()):
        parser.error(f"there is no host {chosen.host!r} to test on, but {' and '.join(known)}")


def main(arguments):
    """Run the lanes, print each one's output as it ends, and one summary line; return 1 on any failure."""
    chosen = options(arguments)
    board, total = Board(), Counter()
    found = lanes(chosen.parts, chosen.host, chosen.pytest)
    say("running the tests")
    for lane in found:
        if lane.left_out:
            say(f"{lane.name}: skipped, {lane.left_out}")
            total["skipped"] += 1
    runs = [Run(lane) for lane in found if not lane.left_out]
    with closing(ended(runs, board)) as order:
        for run in order:
            counts = run.counts(may_be_empty=bool(chosen.pytest))
            board.tell(f"{run.lane.name}: {'FAILED' if counts['failed'] else 'ok'} after {run.seconds:.0f} s")
            board.print("\n".join(run.lines).strip())
            total.update(counts)
    if any(run.is_empty() for run in runs) and not total["passed"] + total["failed"]:
        say(f"failed: no test fits {' '.join(chosen.pytest)}")
        total["failed"] += 1
    print(", ".join(f"{total[word]} {word}" for word in COUNTED), flush=True)
    return int(total["failed"] > 0)


def ended(runs, board):
    """Run all and yield each as it ends, showing meanwhile how far the others are; closed early, end them all."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = {pool.submit(run.follow, board.tell): run for run in runs}
        try:
            while running:
                finished, _ = wait(running, board.interval, FIRST_COMPLETED)
                if not finished:
                    board.show(running.values())
                for future in finished:
                    future.result()
                    yield running.pop(future)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop(runs)
            raise


if __name__ == "__main__":
    end_in_order()
    let_lanes_be_interrupted()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        say("ended")
        sys.exit(130)
    except Failure as failure:
        say(f"failed: {failure}")
        sys.exit(1)
