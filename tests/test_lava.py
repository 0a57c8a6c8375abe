"""Test that the table of lava-dl's names is correct."""

import inspect
import operator
import os
import re
import subprocess
import sys

import pytest

import nmnist_helpers as slayer
from nmnist_helpers.__main__ import main
from nmnist_helpers.lava import NAMES, table

AVAILABLE = [name for name, row in NAMES.items() if row.status != "out"]
OUT_OF_SCOPE = [name for name, row in NAMES.items() if row.status == "out"]


def parameters_of(found) -> list[str]:
    if inspect.isclass(found) and issubclass(found, Exception | int):
        return []
    return [name for name in inspect.signature(found).parameters if name not in ("self", "args", "kwargs")]


@pytest.mark.parametrize("name", AVAILABLE)
def test_available_names_take_lava_dls_arguments_in_order(name):
    found = operator.attrgetter(name)(slayer)
    row = NAMES[name]
    if row.parameters is None or row.status == "differs":
        return
    expected = row.parameters.split()
    assert parameters_of(found)[: len(expected)] == expected
    signature = inspect.signature(found).parameters
    for extra in parameters_of(found)[len(expected) :]:
        assert signature[extra].default is not inspect.Parameter.empty, extra


@pytest.mark.parametrize("name", OUT_OF_SCOPE)
def test_names_out_of_scope_raise_and_point_to_existing_names(name):
    with pytest.raises(AttributeError, match="out of scope; use .") as error:
        operator.attrgetter(name)(slayer)
    for path in re.findall(r"nmnist_helpers\.([\w.]*\w)", str(error.value).partition("; use ")[2]):
        operator.attrgetter(path)(slayer)


def test_unknown_names_raise_attribute_error():
    for module in (slayer, slayer.utils, slayer.block.cuba, slayer.neuron):
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018


def test_the_command_prints_every_name_with_its_status(capsys):
    main(["lava"])
    printed = capsys.readouterr().out
    assert printed.strip() == table()
    for name in NAMES:
        assert re.search(
            rf"^\| `(slayer\.)?{re.escape(name)}` \| (works|differs on purpose|out of scope) \|", printed, re.M
        )
    assert "| `slayer.block.cuba.Conv` | works |" in printed


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error on Windows")
def test_a_command_whose_output_is_not_read_to_the_end_reports_no_error():
    command = subprocess.Popen(
        [sys.executable, "-m", "nmnist_helpers", "lava"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    command.stdout.close()
    assert command.stderr.read() == ""
    assert command.wait() == 141
    command.stderr.close()
