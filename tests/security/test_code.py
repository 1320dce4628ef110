"""The code of the repository: no statement in it can run what it reads.

The walk is over syntax trees, so that a comment or a text is no finding. Each exception has its reason.
"""

import ast
import re
from pathlib import Path

import pytest
from conftest import ROOT

FOLDERS = ("onesentence", "stages", "benchmarks", "requirements", "docs")
FILES = sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "_build" not in path.parts
)
# Modules that run what they read, or that read pickles.
MODULES = set("pickle cPickle dill cloudpickle joblib shelve marshal jsonpickle".split())
CALLS = {"eval", "exec", "compile", "__import__"}
# A function of a library, and the argument that makes it safe.
NEEDED = {
    "torch.load": ("weights_only", True),
    "AutoModelForCausalLM.from_pretrained": ("use_safetensors", True),
    "AutoModelForSequenceClassification.from_pretrained": ("use_safetensors", True),
    "AutoModel.from_pretrained": ("use_safetensors", True),
}
# Without trust_remote_code=False, these ask on a terminal whether they may run the folder's code.
ASKING = re.compile(r"Auto\w+\.from_pretrained")
FORBIDDEN_ARGUMENTS = {
    "trust_remote_code": True,
    "shell": True,
    "allow_pickle": True,
    "weights_only": False,
    "use_safetensors": False,
}
FORBIDDEN_CALLS = {
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "os.system", "os.popen"),
    *("pd.read_pickle", "pandas.read_pickle", "tempfile.mktemp"),
}
LOADERS = ("yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader")  # they construct objects
# File, and what is found there: why it is no danger.
ROUND_TRIP = "ruamel's round-trip loader, which constructs plain values alone"
GGUF = "reads GGUF, which holds tensors alone, from a wheel whose SHA-256 is pinned"
ALLOWED = {
    ("onesentence/core/pool.py", "joblib"): "only its count of usable cores, which knows of containers",
    ("onesentence/commands/edit.py", "yaml.load"): ROUND_TRIP,
    ("onesentence/commands/data.py", "yaml.load"): ROUND_TRIP,
    ("onesentence/commands/base.py", "AutoModelForCausalLM.from_pretrained without use_safetensors"): GGUF,
    ("onesentence/commands/base.py", "AutoModelForCausalLM.from_pretrained without trust_remote_code"): GGUF,
    ("onesentence/commands/base.py", "AutoTokenizer.from_pretrained without trust_remote_code"): GGUF,
}


def dotted(node: ast.AST) -> str:
    """The name of what is called: `torch.load`; of a longer chain its last two parts."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value).rpartition('.')[2]}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def constant(call: ast.Call, name: str) -> object:
    """The value of a keyword argument; ... where it is none, and where an expression gives it."""
    return next(
        (k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), ...
    )


def in_call(call: ast.Call, tree: ast.AST) -> list[str]:
    """What is wrong with a call."""
    name = dotted(call.func)
    found = []
    if (isinstance(call.func, ast.Name) and name in CALLS) or name in FORBIDDEN_CALLS:
        found.append(name)
    for argument, value in FORBIDDEN_ARGUMENTS.items():
        if constant(call, argument) is value:
            found.append(f"{name} with {argument}={value}")
    needed = [NEEDED[name]] if name in NEEDED else []
    needed += [("trust_remote_code", False)] if ASKING.fullmatch(name) else []
    for argument, value in needed:
        # Given as **options: the dictionary of that name must set it.
        spread = [k.value.id for k in call.keywords if k.arg is None and isinstance(k.value, ast.Name)]
        given = constant(call, argument) is value or any(sets(tree, name, argument, value) for name in spread)
        if not given:
            found.append(f"{name} without {argument}")
    return found


def sets(tree: ast.AST, dictionary: str, key: str, value: object) -> bool:
    """Whether a dictionary of that name is made with a key of that value."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Dict):
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        pairs = zip(node.value.keys, node.value.values, strict=True)
        constants = [pair for pair in pairs if all(isinstance(part, ast.Constant) for part in pair)]
        known = [(k.value, v.value) for k, v in constants]
        if dotted(target) == dictionary and (key, value) in known:
            return True
    return False


def findings(tree: ast.AST) -> list[str]:
    """What a module does that could run what it reads."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += in_call(node, tree)
        elif isinstance(node, ast.ClassDef):
            found += [f"{dotted(base)} as a base" for base in node.bases if dotted(base) in LOADERS]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_runs_what_it_reads(path):
    name = path.relative_to(ROOT).as_posix()
    found = findings(ast.parse(path.read_text()))
    assert [entry for entry in found if (name, entry) not in ALLOWED] == []


def test_every_exception_is_still_needed():
    for name, entry in ALLOWED:
        assert entry in findings(ast.parse((ROOT / name).read_text())), (name, entry)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("eval('1')", "eval"),
        ("exec(text)", "exec"),
        ("torch.load(path)", "torch.load without weights_only"),
        ("torch.load(path, weights_only=False)", "torch.load with weights_only=False"),
        ("yaml.load(text, Loader)", "yaml.load"),
        ("numpy.load(path, allow_pickle=True)", "numpy.load with allow_pickle=True"),
        ("subprocess.run(text, shell=True)", "subprocess.run with shell=True"),
        ("AutoTokenizer.from_pretrained(x, trust_remote_code=True)", "with trust_remote_code=True"),
        ("AutoTokenizer.from_pretrained(x)", "without trust_remote_code"),
        ("transformers.AutoModelForCausalLM.from_pretrained(x)", "without use_safetensors"),
        ("o = {'a': 1}\nAutoModel.from_pretrained(x, **o)", "without use_safetensors"),
        ("class A(yaml.Loader): pass", "yaml.Loader as a base"),
        ("os.system(text)", "os.system"),
    ],
)  # fmt: skip
def test_the_walk_finds(code, said):
    assert any(said in entry for entry in findings(ast.parse(code)))


def test_the_walk_accepts_what_is_safe():
    code = (
        "torch.load(p, weights_only=True)\no = {'use_safetensors': True}\n"
        "AutoModel.from_pretrained(x, trust_remote_code=False, **o)"
    )
    assert findings(ast.parse(f"{code}\nre.compile('a')\nmodel.eval()\nyaml.safe_load(t)\n# eval('1')")) == []


def test_workflows_run_no_code_of_a_pull_request_with_rights():
    """pull_request_target and a script that pastes a title into a shell give a stranger the token."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        text = path.read_text()
        assert "pull_request_target" not in text and "github.event.pull_request.title" not in text
        for line in text.splitlines():
            assert not (line.strip().startswith("run:") and "${{" in line), (path, line)


def test_only_the_listed_folders_hold_code():
    tops = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("*/**/*.py")} - {
        ".venv",
        ".venv-tools",
        "tests",
    }
    assert {top for top in tops if not top.startswith(".") and top != "presets"} <= {*FOLDERS, "cloud"}, tops
    assert isinstance(FILES[0], Path) and len(FILES) > 100
