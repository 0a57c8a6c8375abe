"""Test that the table of lava-dl's names is correct."""

import inspect
import operator
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from support import oracles

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


CUBA = {"threshold": 0.3, "current_decay": 0.25, "voltage_decay": 0.03}


def test_the_substitute_of_an_affine_block_gives_the_voltage_of_rounded_weights():
    weight, x = 2 * torch.rand(3, 32), (torch.rand(2, 32, 60) < 0.5).float()
    names = {"nmnist_helpers": slayer, "neuron_params": CUBA, "in_neurons": 32, "out_neurons": 3, "x": x}
    voltage, made, without_dynamics = re.fullmatch(
        r"use (\S+), the voltage .*?: (.*); with dynamics=False, use (\S+)", NAMES["block.cuba.Affine"].note
    ).groups()
    exec(made.replace(", synapse", "; synapse"), names)
    names["synapse"].weight.data.copy_(weight.view(3, 32, 1, 1, 1))
    z = oracles.product(oracles.steps_of_weight(weight), x)
    assert np.array_equal(eval(without_dynamics, names).detach(), z)
    _, expected, *_ = oracles.neuron(z, oracles.keep_of(1024), oracles.keep_of(0.03 * 4096), oracles.NEVER)
    assert expected.max() > 1000 * 4096, "a lower threshold would do, so the test shows little"
    assert np.array_equal(eval(voltage, names).detach() * 4096, expected)


def test_the_substitute_of_an_input_block_encodes_rounded_numbers():
    x = torch.randn(4, 7, 30)
    call, made = re.match(r"use (.*) with a neuron = (\S+) to encode", NAMES["block.cuba.Input"].note).groups()
    names = {"nmnist_helpers": slayer, "neuron_params": CUBA, "x": x}
    names["neuron"] = eval(made, names)
    z = oracles.steps_of_weight(x) / 32
    _, _, spikes, *_ = oracles.neuron(z, oracles.keep_of(1024), oracles.keep_of(0.03 * 4096), int(0.3 * 64) * 64)
    assert np.array_equal(eval(call, names).detach(), oracles.shifted(spikes, 1))
    assert 0.1 < spikes.mean() < 0.9


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


DIR = """
import nmnist_helpers as slayer

names = set(dir(slayer))
assert {"Network", "camera", "checkpoint", "cost", "netx", "nir", "pictures", "sim2real", "train"} <= names, names
assert {"__version__", "__doc__", "__path__", "__all__"} <= names, names
assert not {"absent", "public", "bits", "compiled", "importlib", "os", "sys", "respect_quota"} & names, names
for module in (slayer.axon, slayer.classifier, slayer.dendrite, slayer.loss, slayer.utils, slayer.utils.time,
               slayer.netx, slayer.sim2real, slayer.train):
    assert {name for name in dir(module) if not name.startswith("__")} == set(module.__all__), module
"""


def test_tab_completion_offers_public_names():
    subprocess.run([sys.executable, "-c", DIR], check=True, timeout=300)
