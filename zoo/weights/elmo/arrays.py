"""ELMo's own files: ``options.json`` and an hdf5 file of weights, as bilm-tf writes and allennlp reads them.

The rules are in specs: ELMo, sections 2 and 6. Kernels there multiply from the right, gates stand in TensorFlow's order
i, g, f, o, and what the file calls a carry gate opens the way for the transform. Softmax weights are not in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.config import CoreConfig
from zoo.config_parts import CharacterConfig, RecurrentConfig
from zoo.core.build import make_core
from zoo.core.lstm import BidirectionalLSTM
from zoo.errors import ZooError, nearest
from zoo.storage.files import read_json, write_json
from zoo.vocabulary import Vocabulary
from zoo.weights.table import any_of

_TO_OURS, _TO_THEIRS = [0, 2, 3, 1], [0, 3, 1, 2]  # blocks of gates: i g f o <-> i f o g
_SPELLER = "embeddings.word_embeddings"


def load_elmo(
    options: str | Path,
    weights: str | Path,
    words: Sequence[str] = (),
    vocabulary: Vocabulary | None = None,
    ignore: Iterable[str] = (),
) -> BidirectionalLSTM:
    """A core with the weights of such files.

    Args:
        options: the JSON file.
        weights: the hdf5 file.
        words: tokens by id, so that the core takes token ids; without them it takes ``character_ids`` only.
        vocabulary: says which of the words open and close a sentence.
        ignore: patterns (regular expressions) of arrays to leave behind.

    Raises:
        ZooError: a file is missing, damaged or something else, or the two disagree; or h5py is not installed.
    """
    config = config_of(read_json(Path(options)), str(options)).replace(vocab_size=len(words) or None)
    expected = _expected(config)
    unwanted = any_of(ignore)
    arrays = {name: array for name, array in _read_arrays(Path(weights)).items() if not unwanted.search(name)}
    _compare(arrays, expected, Path(options), Path(weights))
    core = make_core(config)
    assert isinstance(core, BidirectionalLSTM)
    core.load_state_dict(_to_ours(arrays, config), strict=False)  # all but the spellings, which stand in no file
    if words:
        core.set_spellings(words, vocabulary or Vocabulary(len(words)))
    return core.eval()


def save_elmo(core: BidirectionalLSTM, options: str | Path, weights: str | Path) -> None:
    """Write a core as such files, both atomically, the weights first.

    Raises:
        ZooError: the format cannot express the core; says which fields are in the way.
    """
    h5py, path = _h5py(), Path(weights)
    content = options_of(core.config)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(temporary, "w") as file:
            for name, tensor in _to_theirs(core.state_dict(), core.config).items():
                file[name] = tensor.detach().float().cpu().contiguous().numpy()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    write_json(Path(options), content)


# ---- config ---------------------------------------------------------------------------------------------


def config_of(options: Mapping[str, Any], source: str = "the options") -> CoreConfig:
    """Config of the core that such options describe.

    Args:
        options: content of the JSON file.
        source: its name, for messages.

    Raises:
        ZooError: an option is missing, or describes what the released models are not.
    """
    lstm, cnn = (_part(options, name, source) for name in ("lstm", "char_cnn"))
    if _number(cnn, "char_cnn.n_characters", source) not in (261, 262):
        raise ZooError(
            f"{source}: char_cnn.n_characters is {cnn['n_characters']}; bytes and marks make 261, or 262 with the "
            "masked position's row."
        )
    width, cell = (_number(lstm, f"lstm.{name}", source) for name in ("projection_dim", "dim"))
    characters = CharacterConfig(
        max_characters_per_token=_number(cnn, "char_cnn.max_characters_per_token", source),
        embedding_dim=_number(_part(cnn, "embedding", source), "char_cnn.embedding.dim", source),
        filters=_filters(cnn, source),
        n_highway=_number(cnn, "char_cnn.n_highway", source) if cnn.get("n_highway") else 0,
        activation=cnn.get("activation", "relu"),
    )
    if width >= cell or width == characters.features:
        raise ZooError(
            f"{source}: lstm.projection_dim = {width} beside lstm.dim = {cell} and {characters.features} filters: the "
            "original leaves a projection out where it would not make things narrower; such models are not read."
        )
    return CoreConfig(
        hidden_size=2 * width,
        num_hidden_layers=_number(lstm, "lstm.n_layers", source),
        embedding_norm=False,
        position_type="none",
        type_vocab_size=0,
        hidden_dropout_prob=0.0,
        initializer="normal",
        initializer_range=width**-0.5,
        tie_word_embeddings=False,
        pooler=False,
        characters=characters,
        recurrent=RecurrentConfig(
            cell_size=cell,
            cell_clip=lstm.get("cell_clip"),
            projection_clip=lstm.get("proj_clip"),
            skip_connections=bool(lstm.get("use_skip_connections")),
            dropout=float(options.get("dropout", 0.1)),
        ),
    )


def options_of(config: CoreConfig) -> dict[str, Any]:
    """The options that describe such a core.

    Raises:
        ZooError: they cannot.
    """
    characters, recurrent = config.characters, config.recurrent
    wrong = []
    if characters is None or recurrent is None:
        wrong.append("characters and recurrent must both be set")
    for name, value in (
        ("embedding_norm", False),
        ("position_type", "none"),
        ("type_vocab_size", 0),
        ("pooler", False),
    ):
        if getattr(config, name) != value:
            wrong.append(f"{name} is {getattr(config, name)}, not {value}")
    if config.task_type_vocab_size or config.has_embedding_projection or config.groups != config.num_hidden_layers:
        wrong.append("task types, an embedding projection or shared layers have no place")
    if characters is not None and characters.n_characters != 261:
        wrong.append(f"characters.n_characters is {characters.n_characters}, not 261")
    if recurrent is not None and recurrent.cell_size <= config.input_width:
        wrong.append(f"recurrent.cell_size = {recurrent.cell_size} is not wider than the projection")
    if characters is not None and characters.features == config.input_width:
        wrong.append(f"characters.filters are {characters.features} in all, as many as the projection is wide")
    if wrong or characters is None or recurrent is None:
        raise ZooError(f"ELMo's files cannot express this core: {'; '.join(wrong)}.")
    return {
        "lstm": {
            "cell_clip": recurrent.cell_clip,
            "proj_clip": recurrent.projection_clip,
            "use_skip_connections": recurrent.skip_connections,
            "n_layers": config.num_hidden_layers,
            "projection_dim": config.input_width,
            "dim": recurrent.cell_size,
        },
        "char_cnn": {
            "embedding": {"dim": characters.embedding_dim},
            "filters": [list(pair) for pair in characters.filters],
            "n_highway": characters.n_highway,
            "n_characters": characters.n_characters + 1,
            "max_characters_per_token": characters.max_characters_per_token,
            "activation": characters.activation,
        },
        "dropout": recurrent.dropout,
    }


def _part(options: Mapping[str, Any], name: str, source: str) -> dict[str, Any]:
    value = options.get(name)
    if not isinstance(value, dict):
        raise ZooError(f"{source} has no {name!r}, a group of options of every ELMo model.{nearest(name, options)}")
    return value


def _number(group: Mapping[str, Any], name: str, source: str) -> int:
    key = name.rsplit(".", 1)[-1]
    value = group.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ZooError(f"{source}: {name} is {value!r}; a whole number above 0 is needed.{nearest(key, group)}")
    return value


def _filters(cnn: Mapping[str, Any], source: str) -> tuple[tuple[int, int], ...]:
    found = cnn.get("filters")
    if not isinstance(found, list) or not all(isinstance(f, list) and len(f) == 2 for f in found):
        raise ZooError(f"{source}: char_cnn.filters is {found!r}; a list of [width, number] is needed.")
    return tuple((int(width), int(number)) for width, number in found)


# --- tensors -----------------------------------------------------------------------------------------------


def _to_theirs(state: Mapping[str, Tensor], config: CoreConfig) -> dict[str, Tensor]:
    """Arrays by the file's names."""
    assert config.characters is not None
    made = {"char_embed": state[f"{_SPELLER}.characters.weight"]}
    for number in range(len(config.characters.filters)):
        kernel = state[f"{_SPELLER}.convolutions.{number}.weight"]
        made[f"CNN/W_cnn_{number}"] = kernel.permute(2, 1, 0)[None]
        made[f"CNN/b_cnn_{number}"] = state[f"{_SPELLER}.convolutions.{number}.bias"]
    for ours, theirs, kind in _linear_names(config):
        made[f"{theirs}/W_{kind}"] = state[f"{_SPELLER}.{ours}.weight"].t()
        made[f"{theirs}/b_{kind}"] = state[f"{_SPELLER}.{ours}.bias"]
    for direction in range(2):
        for layer in range(config.num_hidden_layers):
            ours, theirs = f"layers.{layer}", _cell(direction, layer)
            kernels = [state[f"{ours}.{name}_weight"][direction] for name in ("input", "recurrent")]
            made[f"{theirs}/W_0"] = _reordered(torch.cat(kernels, dim=1), _TO_THEIRS).t()
            made[f"{theirs}/B"] = _reordered(state[f"{ours}.bias"][direction], _TO_THEIRS)
            made[f"{theirs}/W_P_0"] = state[f"{ours}.projection"][direction].t()
    return made


def _to_ours(arrays: Mapping[str, Tensor], config: CoreConfig) -> dict[str, Tensor]:
    """Tensors by the core's names, the inverse of :func:`_to_theirs`."""
    assert config.characters is not None
    made = {f"{_SPELLER}.characters.weight": arrays["char_embed"]}
    for number in range(len(config.characters.filters)):
        made[f"{_SPELLER}.convolutions.{number}.weight"] = arrays[f"CNN/W_cnn_{number}"][0].permute(2, 1, 0)
        made[f"{_SPELLER}.convolutions.{number}.bias"] = arrays[f"CNN/b_cnn_{number}"]
    for ours, theirs, kind in _linear_names(config):
        made[f"{_SPELLER}.{ours}.weight"] = arrays[f"{theirs}/W_{kind}"].t()
        made[f"{_SPELLER}.{ours}.bias"] = arrays[f"{theirs}/b_{kind}"]
    for layer in range(config.num_hidden_layers):
        cells = [_cell(direction, layer) for direction in range(2)]
        kernels = torch.stack([_reordered(arrays[f"{cell}/W_0"].t(), _TO_OURS) for cell in cells])
        inner, recurrent = kernels.split(config.input_width, dim=2)
        made[f"layers.{layer}.input_weight"], made[f"layers.{layer}.recurrent_weight"] = inner, recurrent
        made[f"layers.{layer}.bias"] = torch.stack([_reordered(arrays[f"{cell}/B"], _TO_OURS) for cell in cells])
        made[f"layers.{layer}.projection"] = torch.stack([arrays[f"{cell}/W_P_0"].t() for cell in cells])
    return made


def _linear_names(config: CoreConfig) -> list[tuple[str, str, str]]:
    """(our module, their group, suffix of their names) of the linear maps above the convolutions."""
    assert config.characters is not None
    names = [("projection", "CNN_proj", "proj")]
    for number in range(config.characters.n_highway):
        names += [(f"highways.{number}.gate", f"CNN_high_{number}", "carry")]
        names += [(f"highways.{number}.transform", f"CNN_high_{number}", "transform")]
    return names


def _cell(direction: int, layer: int) -> str:
    return f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"


def _reordered(tensor: Tensor, order: list[int]) -> Tensor:
    """The four blocks of the first axis in another order."""
    blocks = tensor.chunk(4)
    return torch.cat([blocks[number] for number in order])


# --- files -------------------------------------------------------------------------------------------------


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ZooError("hdf5 files need h5py: pip install 'sesame-zoo[elmo]'.") from error
    return h5py


def is_weights(path: Path) -> bool:
    """Whether an hdf5 file holds a table of characters, as every file of weights does."""
    try:
        with _h5py().File(path, "r") as file:
            return "char_embed" in file
    except OSError:
        return False


def _expected(config: CoreConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every array that a model of this config has."""
    with torch.device("meta"):
        state = make_core(config).state_dict()
        return {name: tuple(tensor.shape) for name, tensor in _to_theirs(state, config).items()}


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """Every array of an hdf5 file by its full name."""
    h5py = _h5py()
    if not path.is_file():
        raise ZooError(f"{path} is not a file; ELMo's weights in hdf5 are needed.")
    found: dict[str, Tensor] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.dtype.kind != "f":
            raise ZooError(f"{path}: {name!r} holds {item.dtype}, not floating-point numbers; this is no ELMo model.")
        found[name] = torch.from_numpy(item[...].astype("float32"))

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError) as error:
        raise ZooError(f"{path} is not a readable hdf5 file ({error}); is the copy complete?") from error
    return found


def _compare(
    arrays: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], options: Path, weights: Path
) -> None:
    """Raise ZooError if the weights are not those of the options; it names every difference."""
    problems = [f"no {name}.{nearest(name, arrays)}" for name in expected.keys() - arrays.keys()]
    problems += [f"{name} belongs to nothing that the options name." for name in arrays.keys() - expected.keys()]
    for name in expected.keys() & arrays.keys():
        if tuple(arrays[name].shape) != expected[name]:
            problems.append(f"{name} has shape {tuple(arrays[name].shape)}, the options make it {expected[name]}")
        elif not bool(torch.isfinite(arrays[name]).all()):
            problems.append(f"{name} holds values that are not finite")
    if problems:
        listing = "\n  ".join(sorted(problems)[:12]) + ("\n  ..." if len(problems) > 12 else "")
        raise ZooError(
            f"{weights} does not fit {options} ({len(problems)} differences); are they of the same model?\n  {listing}"
        )
