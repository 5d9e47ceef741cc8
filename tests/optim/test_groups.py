"""Which weights of which models are projectable."""

import pytest
import torch
from torch import nn

from frugalbo.optim import LLAMA, Frugal, LlamaShape, param_groups


class Attention(nn.Module):
    def __init__(self, h):
        super().__init__()
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(h, h, bias=False))


class MLP(nn.Module):
    def __init__(self, h, f):
        super().__init__()
        self.gate_proj = nn.Linear(h, f, bias=False)
        self.up_proj = nn.Linear(h, f, bias=False)
        self.down_proj = nn.Linear(f, h, bias=False)


class Layer(nn.Module):
    def __init__(self, h, f):
        super().__init__()
        self.self_attn, self.mlp = Attention(h), MLP(h, f)
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(h), nn.RMSNorm(h)


class Llama(nn.Module):
    def __init__(self, shape, *, tied=False):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape.hidden, shape.ffn) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden)
        self.lm_head = nn.Linear(shape.hidden, shape.vocab, bias=False)
        if tied:
            self.lm_head.weight = self.embed_tokens.weight


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = nn.ModuleDict({"word": nn.Embedding(29, 7), "norm": nn.LayerNorm(7)})
        self.encoder = nn.ModuleList(
            nn.ModuleDict(
                {
                    "query": nn.Linear(7, 7),
                    "value": nn.Linear(7, 7),
                    "intermediate": nn.ModuleDict({"dense": nn.Linear(7, 13)}),
                    "output": nn.ModuleDict({"dense": nn.Linear(13, 7), "LayerNorm": nn.LayerNorm(7)}),
                }
            )
            for _ in range(2)
        )
        self.classifier = nn.ModuleDict({"dense": nn.Linear(7, 7), "out_proj": nn.Linear(7, 3)})


def names(model, groups):
    by_id = {id(param): name for name, param in model.named_parameters()}
    return [[by_id[id(param)] for param in group["params"]] for group in groups]


SHAPE = LlamaShape(hidden=8, ffn=12, layers=2, vocab=17)


def test_llama_projects_its_layers_in_the_papers_order():
    model = Llama(SHAPE)
    groups = param_groups(model)
    linears, rest = names(model, groups)
    kinds = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert [name.split(".")[-2] for name in linears] == 2 * kinds
    assert [tuple(param.shape) for param in groups[0]["params"]] == SHAPE.projectable
    assert "lm_head.weight" in rest
    assert "embed_tokens.weight" in rest
    assert sum("norm" in name for name in rest) == 2 * SHAPE.layers + 1
    assert sorted(linears + rest) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.literature
@pytest.mark.parametrize("name", list(LLAMA))
def test_the_papers_llamas_have_the_shapes_of_the_table(name):
    """FRUGAL, arXiv:2411.07837, released configurations: shapes by model, on the meta device."""
    with torch.device("meta"):
        groups = param_groups(Llama(LLAMA[name]))
    assert [tuple(p.shape) for p in groups[0]["params"]] == LLAMA[name].projectable
    assert sorted(tuple(p.shape) for p in groups[1]["params"]) == sorted(LLAMA[name].regular)


def test_a_head_tied_to_the_embedding_is_one_regular_parameter():
    groups = param_groups(Llama(SHAPE, tied=True))
    assert len(groups[0]["params"]) == 14
    assert len({id(p) for group in groups for p in group["params"]}) == 14 + 1 + 5


def test_a_linear_tied_to_an_embedding_is_regular_whatever_it_is_called():
    model = nn.ModuleDict(
        {"words": nn.Embedding(7, 5), "a": nn.Linear(5, 5), "out": nn.Linear(5, 7), "z": nn.Linear(7, 3)}
    )
    model["out"].weight = model["words"].weight
    assert names(model, param_groups(model))[0] == ["a.weight"]


def test_bert_projects_its_layers_and_keeps_the_whole_classifier():
    model = Bert()
    linears, rest = names(model, param_groups(model))
    assert len(linears) == 2 * 4
    assert all("encoder" in name for name in linears)
    assert {"classifier.dense.weight", "classifier.out_proj.weight", "encoder.0.query.bias"} <= set(rest)


def test_a_predicate_narrows_the_projectable_weights():
    model = Bert()
    groups = param_groups(model, projectable=lambda name: name.endswith(("query", "value")))
    assert [name.split(".")[2] for name in names(model, groups)[0]] == ["query", "value"] * 2


def test_an_unnamed_model_keeps_its_last_linear_as_the_head():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    assert names(model, param_groups(model))[0] == ["0.weight", "2.weight"]
    assert names(model, param_groups(model, head=()))[0] == ["0.weight", "2.weight", "4.weight"]
    assert names(model, param_groups(model, head=["0", "2"]))[0] == ["4.weight"]


def test_a_module_called_output_is_the_head_at_the_top_only():
    block = nn.ModuleDict({"inner": nn.Linear(5, 5), "output": nn.Linear(5, 5)})
    model = nn.ModuleDict({"output": nn.Linear(5, 7), "block": block})
    assert names(model, param_groups(model))[0] == ["block.inner.weight", "block.output.weight"]


def test_a_models_own_word_on_its_output_layer_counts():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.unembed, self.body = nn.Linear(5, 7), nn.Linear(5, 5)

        def get_output_embeddings(self):
            return self.unembed

    model = Model()
    assert names(model, param_groups(model))[0] == ["body.weight"]


def test_torchs_own_transformer_projects_its_attention_as_well():
    model = nn.ModuleDict({"layer": nn.TransformerEncoderLayer(8, 2, 12), "head": nn.Linear(8, 3)})
    assert names(model, param_groups(model))[0] == [
        "layer.self_attn.in_proj_weight",
        "layer.self_attn.out_proj.weight",
        "layer.linear1.weight",
        "layer.linear2.weight",
    ]


def test_weight_decay_leaves_out_norms_and_biases():
    model = Bert()
    groups = param_groups(model, weight_decay=0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1, 0.0]
    assert all(param.dim() >= 2 for group in groups[:2] for param in group["params"])
    assert all(param.dim() < 2 for param in groups[2]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    Frugal(groups)


def test_frozen_parameters_are_included():
    model = Bert()
    model.embeddings.requires_grad_(False)
    assert "embeddings.word.weight" in names(model, param_groups(model))[1]


def test_a_model_without_linear_weights_to_project_is_refused():
    with pytest.raises(ValueError, match=r"no projectable nn\.Linear in Sequential"):
        param_groups(nn.Sequential(nn.Linear(3, 5)))


def test_a_head_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="none called 'lm_haed'"):
        param_groups(Llama(SHAPE), head=["lm_haed"])
