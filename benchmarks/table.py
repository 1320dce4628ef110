"""Print one table of everything in benchmarks/results/; with --write, put it into docs/benchmarks.md too.

Run     python -m benchmarks.table [--write]    (`make bench` ends with it)
"""

import argparse
import textwrap
from pathlib import Path

from onesentence.core import errors
from onesentence.core.files import read_json
from onesentence.core.runtime import SLEEP_AT_ONCE
from onesentence.report.readme import write_between

RESULTS = Path("benchmarks/results")
PAGE = Path("docs/benchmarks.md")
START, END = "<!-- benchmarks: written by make bench -->\n", "<!-- end of benchmarks -->\n"
PROSE = 120  # characters of a line of the page


def spread(found: dict[str, float], unit: str = "x") -> str:
    """The median of paired runs, and their range."""
    return f"{found['median']:.2f}{unit} [{found['low']:.2f}, {found['high']:.2f}]"


def differing(entry: dict) -> str:
    """How many articles have other tokens, and how far apart the model scores both outputs."""
    count = entry["articles_with_other_tokens"]
    if not count:
        return "0"
    return (
        f"{count}; ours scores higher in {entry['ours_is_better']}; "
        f"{entry['median_distance_nats_a_token']:.3f} nats a token apart (median)"
    )


def fastest(models: dict[str, list[dict]]) -> list[tuple[str, str, str]]:
    """Rows of the comparison with CTranslate2: first in float32, then with its int8."""
    found = []
    for kind in ("float32", "int8"):
        for name, entries in models.items():
            for entry in entries:
                if entry["ctranslate2"] == kind:
                    same = entry["articles"] - entry["articles_with_other_tokens"]
                    threads = "1 thread" if entry["threads"] == 1 else f"{entry['threads']} threads"
                    found.append(
                        (
                            f"generation, articles per CPU second ({name}, {threads})",
                            f"CTranslate2, {kind}; the same tokens for {same} of {entry['articles']}",
                            f"{spread(entry['times_in_cpu_seconds'])}; "
                            f"in wall time {entry['times_in_seconds']['median']:.2f}x",
                        )
                    )
    return found


def of_smollm2() -> list[tuple[str, str, str]]:
    """Rows of the preset smollm2-docstrings."""
    training = read_json(RESULTS / "training_smollm2.json")
    found = [
        (
            "training in bfloat16, tokens/s (SmolLM2-135M)",
            "TRL `SFTTrainer` in bfloat16, grouped by length, no checkpointing",
            spread(training["speed"]["trl, grouped"]),
        ),
        (
            "training in bfloat16, peak memory (SmolLM2-135M)",
            "TRL `SFTTrainer` in bfloat16, grouped by length, no checkpointing",
            spread(training["memory"]["trl, grouped"]),
        ),
        (
            "training in bfloat16, time (SmolLM2-135M)",
            "its matrix products alone",
            spread(training["time_of_the_products"]),
        ),
    ]
    for name in ("generation_smollm2", "generation_smollm2_bfloat16"):
        found += fastest(read_json(RESULTS / f"{name}.json")["models"])
    return found


def of_serving() -> list[tuple[str, str, str]]:
    """Rows of the service under load; none before it was measured."""
    path = RESULTS / "serving.json"
    if not path.is_file():
        return []
    result = read_json(path)
    many, times = result["many"], result["many"]["milliseconds"]
    return [
        (
            f"`onesentence serve`, requests/s ({many['clients']} clients, {many['answered']:,} requests)",
            f"one client, {result['one']['requests_per_second']:.1f} requests/s",
            f"{result['times_one']:.2f}x; {many['lost']} lost, {many['differing']} unlike alone; median "
            f"latency {times['p50']:.0f} ms, 99 % within {times['p99']:.0f} ms",
        )
    ]


def of_data() -> list[tuple[str, str, str]]:
    """Rows of the stages that stream: their rates beside those of few articles and of earlier code, and their
    peaks with many short rows.
    """
    result = read_json(RESULTS / "data.json")
    first, last = result["curve"][0], result["curve"][-1]
    found = []
    for stage in ("prepare", "tokenize"):
        found.append(
            (
                f"`{stage}`, articles/s ({last['rows']:,} articles)",
                f"{first['rows']:,} articles: {first[stage]['articles_per_second']:,.0f}",
                f"{last[stage]['articles_per_second']:,.0f}; peak {last[stage]['peak_gigabytes']:.2f} GB",
            )
        )
        for name, kind in last.items():
            if "times_before" in (kind if isinstance(kind, dict) else {}):
                before = f"the code of {result['before']}, which read all articles at once"
                times = f"{kind['times_before'][stage]['median']:.2f}x"
                found.append(("", before, f"{times} with {name.removeprefix('workers_')} workers"))
    path = RESULTS / "data_simulated.json"
    simulated = read_json(path)["simulated"] if path.is_file() else []
    for stage in ("prepare", "tokenize") if len(simulated) > 1 else ():
        few, many = simulated[0], simulated[-1]
        found.append(
            (
                f"`{stage}`, peak memory ({many['rows']:,} short rows)",
                f"{few['rows']:,} rows: {few[stage]['peak_gigabytes']:.2f} GB",
                f"{many[stage]['peak_gigabytes']:.2f} GB",
            )
        )
    return found


def rows() -> list[tuple[str, str, str]]:
    """A row for each result: what was measured, what it is compared with, the value."""
    generation = read_json(RESULTS / "generation.json")
    training = read_json(RESULTS / "training.json")
    wide = read_json(RESULTS / "training_wide.json")
    scoring = read_json(RESULTS / "scoring.json")
    memory = read_json(RESULTS / "memory.json")["settings"]
    precision = read_json(RESULTS / "precision.json")
    sizes = [read_json(RESULTS / f"full_size{name}.json") for name in ("", "_nf4")]
    beams = f"{generation['num_beams']} beams, {generation['articles']} articles"
    found = fastest(read_json(RESULTS / "generation_ctranslate2.json")["models"])
    found += of_smollm2()
    for name, result in (("phi-tiny", training), ("Phi-2's width, 2 layers", wide)):
        for peer, title in (
            ("trl, grouped", "TRL `SFTTrainer`, grouped by length, no checkpointing"),
            ("trl", "TRL `SFTTrainer`, its defaults"),
        ):
            found.append((f"training, tokens/s ({name})", title, spread(result["speed"][peer])))
            found.append((f"training, peak memory ({name})", title, spread(result["memory"][peer])))
        found.append(
            (f"training, time ({name})", "its matrix products alone", spread(result["time_of_the_products"]))
        )
    found += [
        (
            f"generation, articles/s ({beams})",
            "`generate()`, same batches",
            spread(generation["times_generate"]),
        ),
        ("", "`pipeline`, 16 at once", spread(generation["times_pipeline"])),
    ]
    found.append(
        (
            "generation, articles with other tokens (float32)",
            f"`generate()`, {generation['articles']:,} articles",
            str(generation["articles_with_other_tokens_than_generate"]),
        )
    )
    for result, what in ((precision, ""), (read_json(RESULTS / "precision_xsum.json"), ", XSum")):
        for name, entry in result["formats"].items():
            found.append(
                (
                    f"generation, articles with other tokens ({name}{what})",
                    f"`generate()`, {result['articles']:,} articles",
                    differing(entry),
                )
            )
    found.append(
        (
            f"ROUGE with intervals ({scoring['texts']:,} texts)",
            "rouge_score, BootstrapAggregator",
            spread(scoring["times_rouge_score"]),
        )
    )
    found += of_serving()
    for work, entry in read_json(RESULTS / "busy.json")["work"].items():
        found.append(
            (
                f"{work} beside a process that keeps a core busy",
                "its own time alone",
                spread(entry["spins"][SLEEP_AT_ONCE]["busy_of_library_alone"]),
            )
        )
    for name, entry in memory.items():
        found.append((f"memory estimate ({name})", "measured peak", f"{entry['estimate_of_measured']:.2f}x"))
    for result in sizes:
        shape = f"Phi-2's width, {result['layers']} layers, {result['batch']} x {result['tokens']} tokens"
        for way, entry in result["ways"].items():
            found.append(
                (
                    f"training, tokens/s ({shape}, {way})",
                    f"utilization {100 * entry['utilization']:.0f} %; estimate "
                    f"{entry['estimated_gigabytes'] / entry['peak_gigabytes']:.2f}x of the peak",
                    f"{entry['tokens_per_second']:,.1f}; peak {entry['peak_gigabytes']:.2f} GB",
                )
            )
            if "times_generate" in entry:
                found.append(("", "generation: `generate()`", f"{entry['times_generate']:.2f}x"))
    found += of_data()
    return found


def machines() -> list[str]:
    """Lines that name the machine of each result; one line where all results are from one machine."""
    places: dict[str, list[str]] = {}
    for path in sorted(RESULTS.glob("*.json")):
        if made := read_json(path).get("machine"):
            place = f"{made['cores']} cores, {made['instructions']}, {made['gpu'] or 'no GPU'}"
            places.setdefault(f"{place}; kernels {made['kernels']}", []).append(path.stem)
    if len(places) == 1:
        return [f"Machine: {place}." for place in places]
    unknown = [
        path.stem for path in sorted(RESULTS.glob("*.json")) if not {"machine", "cpu"} & {*read_json(path)}
    ]
    if unknown:
        places["machine not recorded"] = unknown
    lines = [f"- {', '.join(names)}: {place}." for place, names in places.items()]
    filled = [textwrap.fill(line, PROSE, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
    return ["Machines of the files in `benchmarks/results/`:", "", *filled]


def table() -> str:
    """The table in Markdown, with its machines below."""
    lines = ["| what | compared with | result: median [range of the rounds] |", "|---|---|---|"]
    lines += [f"| {what} | {peer} | {value} |" for what, peer, value in rows()]
    return "\n".join([*lines, "", *machines(), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"also write the table into {PAGE}")
    if parser.parse_args().write:
        write_between(PAGE, START, END, table())
    print(table())


if __name__ == "__main__":
    errors.run(main)
