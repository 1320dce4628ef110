"""The FLOPs that utilization counts, by hand."""

from transformers import LlamaConfig, PhiConfig

from benchmarks.full_size import needed_flops

SHAPE = {
    "vocab_size": 10,
    "hidden_size": 8,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def test_the_flops_of_a_phi_by_hand():
    # Query, key, value 192 weights, output 64, MLP 512; causal attention 12 x 5 x 8 / 2 = 240 a token.
    layers = 2 * (4 * 256 + 240) + 4 * 512  # the last MLP is below
    first = 2 * 192 + 2 * 512  # no gradient of the input, which the MLP reads as well
    expected = (layers - first) * 10 + 4 * (512 + 80) * 2
    assert needed_flops(PhiConfig(**SHAPE), tokens=10, length=5, labels=2) == expected == 36_416


def test_llamas_first_mlp_reads_what_attention_wrote():
    config = LlamaConfig(**SHAPE, num_key_value_heads=1)  # query 64, key and value 32 each, MLP 3 x 256
    layers = 2 * (4 * 192 + 240) + 4 * 768
    expected = (layers - 2 * 128) * 10 + 4 * (768 + 80) * 2
    assert needed_flops(config, tokens=10, length=5, labels=2) == expected
