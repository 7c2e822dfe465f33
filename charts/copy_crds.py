"""Copy the CRDs of `crds/` into the chart: `python3 charts/copy_crds.py`.

They are templates there, so that an upgrade of the chart upgrades them, and are kept when the chart goes, since their
removal would remove every MailCluster. Nothing else is changed; a test compares. Called by people who changed a CRD.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE, TARGET = ROOT / "crds", ROOT / "charts" / "mailarray" / "templates" / "crds"
BEFORE = "{{- if .Values.crds.install }}\n"
AFTER = "{{- end }}\n"
KEPT = "metadata:\n  annotations:\n    helm.sh/resource-policy: keep\n"


def template(crd: str) -> str:
    """The chart's template for a CRD's text. Raises ValueError when Helm would read something in it as its own."""
    if "{{" in crd:
        raise ValueError("a CRD has {{ in it, which Helm would take for a template; write it differently")
    head, found, rest = crd.partition("\nmetadata:\n")
    if not found:
        raise ValueError("a CRD has no metadata; write it as the others are")
    return BEFORE + head + "\n" + KEPT + rest + AFTER


def main() -> None:
    """Write every template."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for path in sorted(SOURCE.glob("*.yaml")):
        (TARGET / path.name).write_text(template(path.read_text()))


if __name__ == "__main__":
    main()
