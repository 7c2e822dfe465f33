"""A pretended `kubectl` that plays what was recorded, and writes down what it was asked.

Runs as a program of its own, with the standard library only. `plays.json` beside it is a list of
[regular expression for the arguments, standard output, standard error, exit code]; the first that fits is played, and
one that ends the list's first element with `#once` is then taken out.
"""

import json
import pathlib
import re
import sys

here = pathlib.Path(sys.argv[0]).parent
line = " ".join(sys.argv[1:])
stdin = sys.stdin.read() if not sys.stdin.isatty() else ""
with (here / "calls.jsonl").open("a", encoding="utf-8") as calls:
    calls.write(json.dumps({"line": line, "stdin": stdin}) + "\n")
plays = json.loads((here / "plays.json").read_text(encoding="utf-8"))
for i, (pattern, out, err, code) in enumerate(plays):
    if re.search(pattern.removesuffix("#once"), line):
        if pattern.endswith("#once"):
            (here / "plays.json").write_text(json.dumps(plays[:i] + plays[i + 1 :]), encoding="utf-8")
        sys.stdout.write(out)
        sys.stderr.write(err)
        sys.exit(code)
sys.stderr.write(f"error: nothing was recorded for {line}\n")
sys.exit(3)
