"""Tiny random models of the families that transformers has, dense and of experts."""

import pytest
import torch

transformers = pytest.importorskip("transformers")

BASE = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}
LAYERS = {"layer_types": ["linear_attention", "full_attention"]}

# name -> configuration, model, what differs from BASE
FAMILIES = {
    "qwen3_moe": ("Qwen3MoeConfig", "Qwen3MoeForCausalLM", {**EXPERTS, "num_experts": 4}),
    "qwen3_next": ("Qwen3NextConfig", "Qwen3NextForCausalLM", {
        **EXPERTS, **LAYERS, "num_experts": 4, "shared_expert_intermediate_size": 32, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4}),
    "deepseek_v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", {
        **EXPERTS, **LATENT, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "n_shared_experts": 1,
        "first_k_dense_replace": 1, "num_key_value_heads": 4}),
    "gpt_oss": ("GptOssConfig", "GptOssForCausalLM", {**EXPERTS, "num_local_experts": 4, "intermediate_size": 32,
        "layer_types": ["sliding_attention", "full_attention"]}),
    "glm4_moe": ("Glm4MoeConfig", "Glm4MoeForCausalLM", {**EXPERTS, "n_routed_experts": 4, "n_shared_experts": 1,
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {**EXPERTS, "num_local_experts": 4}),
    "minimax": ("MiniMaxConfig", "MiniMaxForCausalLM", {**EXPERTS, **LAYERS, "num_local_experts": 4}),
    "olmoe": ("OlmoeConfig", "OlmoeForCausalLM", {**EXPERTS, "num_experts": 4}),
    "granite_moe": ("GraniteMoeConfig", "GraniteMoeForCausalLM", {**EXPERTS, "num_local_experts": 4}),
    "jamba": ("JambaConfig", "JambaForCausalLM", {**EXPERTS, "num_experts": 4, "expert_layer_period": 2,
        "expert_layer_offset": 1, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False,
        "mamba_d_state": 8, "mamba_dt_rank": 16}),
    "nemotron_h": ("NemotronHConfig", "NemotronHForCausalLM", {
        **EXPERTS, "hybrid_override_pattern": "M*E-", "num_hidden_layers": 4, "n_routed_experts": 4, "n_group": 1,
        "topk_group": 1, "n_shared_experts": 1, "moe_shared_expert_intermediate_size": 32, "mamba_num_heads": 4,
        "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 2, "use_mamba_kernels": False, "chunk_size": 16}),
    "llama4": ("Llama4TextConfig", "Llama4ForCausalLM", {**EXPERTS, "num_local_experts": 4, "intermediate_size_mlp": 48,
        "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "attn_temperature_tuning": False}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", {}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "t5": ("T5Config", "T5ForConditionalGeneration", {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2,
        "num_heads": 4, "decoder_start_token_id": 0}),
}  # fmt: skip
ROUTED = [n for n, (_, _, more) in FAMILIES.items() if "num_experts_per_tok" in more]


def tiny(name: str, seed: int = 0, **more):
    """A random model of a family in evaluation mode, float32."""
    config, model, different = FAMILIES[name]
    if not hasattr(transformers, model):
        pytest.skip(f"transformers {transformers.__version__} has no {model}")
    torch.manual_seed(seed)
    base = {} if name in ("gpt2", "t5") else BASE
    config = getattr(transformers, config)(**{**base, "vocab_size": 96, **different, **more})
    model = getattr(transformers, model)(config).eval()
    with torch.no_grad():  # experts are made without values
        for p in model.parameters():
            if not p.isfinite().all() or p.ndim == 3:
                p.normal_(std=0.1)
    return model


def ids(*shape, seed=1):
    return torch.randint(3, 96, shape, generator=torch.Generator().manual_seed(seed))


def call(model, x, **more):
    if model.config.is_encoder_decoder:
        more["decoder_input_ids"] = x[:, :7]
    with torch.no_grad():
        return model(x, **more)
