"""Ask whether a pinned package has a known vulnerability (`make audit`); exits with 1 if one has.

pip-audit reads the locks and asks the package index's database of advisories, or --osv that of OSV. Only
names and versions of packages are sent. Without an answer the command fails: silence is no clean bill.

Run     make audit                    python -m requirements.audit --osv
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from onesentence.core.errors import UserError, run
from requirements.lock import CUDA, FOLDER, LOCKS, TORCH, pins

PIP_AUDIT = Path(".venv-tools/bin/pip-audit")
TIMEOUT = "20"  # seconds for one answer


def findings(report: dict[str, Any]) -> list[str]:
    """A line for each vulnerability in pip-audit's report."""
    return [
        f"{package['name']} {package['version']}: {flaw['id']} ({', '.join(flaw['aliases']) or 'no alias'}), "
        f"repaired in {', '.join(flaw['fix_versions']) or 'no version'}"
        for package in report["dependencies"]
        for flaw in package.get("vulns", ())
    ]


def every_pin() -> list[str]:
    """NAME==VERSION of each package of the locks, once."""
    locked = (pins((FOLDER / f"{name}.lock").read_text(encoding="utf-8")) for name in (*LOCKS, TORCH, CUDA))
    return sorted({f"{pin.name}=={pin.version}" for lock in locked for pin in lock})


def audit(service: str) -> dict[str, Any]:
    """pip-audit's report on every lock. Raises UserError where the service gives no answer."""
    options = ["--disable-pip", "--no-deps", "--progress-spinner=off", f"--timeout={TIMEOUT}"]
    with tempfile.TemporaryDirectory() as folder:
        output, listed = Path(folder) / "report.json", Path(folder) / "pins.txt"
        listed.write_text("\n".join(every_pin()) + "\n", encoding="utf-8")
        command = [str(PIP_AUDIT), f"--vulnerability-service={service}", *options, f"--requirement={listed}"]
        command += ["--format=json", f"--output={output}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if output.is_file() and output.stat().st_size:
            report: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
            return report
    last = (result.stderr.strip().splitlines() or ["no message"])[-1]
    reason = last.removeprefix("ERROR:pip_audit._cli:").partition(":")[0].rpartition(".")[2]
    raise UserError(
        f"audit: the service {service} gave no answer ({reason[:200]}), so nothing is known of the packages; "
        "run it again where that service can be reached"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--osv", action="store_true", help="ask OSV instead of the package index")
    service = "osv" if parser.parse_args().osv else "pypi"
    if not PIP_AUDIT.is_file():
        raise UserError(f"{PIP_AUDIT}: not found; run `make audit`, which installs it")
    report = audit(service)
    skipped = [package["name"] for package in report["dependencies"] if "skip_reason" in package]
    if skipped:
        raise UserError(
            f"audit: the service {service} does not know {len(skipped)} of the packages, first {skipped[0]}, "
            "so nothing is known of them; ask another index, or OSV (python -m requirements.audit --osv)"
        )
    found = findings(report)
    if found:
        raise UserError(
            "\n  ".join([f"audit: {len(found)} known vulnerabilities in pinned packages", *found])
        )
    print(f"audit: no known vulnerability in {len(report['dependencies'])} packages")


if __name__ == "__main__":
    run(main)
