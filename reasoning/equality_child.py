"""The child of `reasoning.equality`: a program that answers a question per line of its input.

It imports nothing of the package, so that it starts quickly. Each question has an alarm whose
default action is to end the process: it interrupts native code, too, and no parent need be alive.
"""

import json
import os
import resource
import signal
import sys

MEMORY = 4 * 2**30  # bytes


def _main(seconds: float) -> None:
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    known = {"latex": LatexExtractionConfig(), "expr": ExprExtractionConfig()}

    def answer(text, kinds=("latex", "expr"), gold=None):  # type: ignore[no-untyped-def]
        config = [known[kind] for kind in kinds]
        found = parse(text, config, parsing_timeout=None)
        if gold is None:
            return next((str(one) for one in reversed(found)), None)
        return verify(parse(gold, config, parsing_timeout=None), found, timeout_seconds=None)

    for line in sys.stdin:
        question = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        said = answer(**question)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(said), file=out, flush=True)


if __name__ == "__main__":
    _main(float(sys.argv[1]))
