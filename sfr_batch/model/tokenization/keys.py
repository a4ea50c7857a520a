"""What is known of the files beside tokenizer.json: their keys, and the classes of tokenizers that they name.

Tables only, taken from transformers 5.24 and 4.57.6. A key or a class that stands in none of them is refused by name,
see `tokenization.files`. Knows no files and no backend.
"""

TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Keys of the named special tokens, in the order in which transformers adds those that tokenizer.json lacks."""

OBEYED = {
    "tokenizer_class": "which class of transformers reads tokenizer.json, see CLASSES",
    **dict.fromkeys(TOKENS, "a special token; added to the vocabulary where tokenizer.json lacks it"),
    "additional_special_tokens": "more special tokens, added where tokenizer.json lacks them",
    "extra_special_tokens": "the same, in the spelling of transformers 5; by name, too",
    "model_specific_special_tokens": "the same by name, as transformers 5 saves them",
    "added_tokens_decoder": "added tokens; where it is given, special_tokens_map.json and added_tokens.json do not act",
    "add_bos_token": "BOS before each text, by the classes in FLAGGED",
    "add_eos_token": "EOS after each text, by the classes in FLAGGED",
    "model_max_length": "most tokens of a row, see recipe",
    "max_len": "the same, in an old spelling",
    "split_special_tokens": "literal special tokens in a text are plain text",
    "do_lower_case": "lowercase, by BERT-like classes, Albert and DebertaV2",
    "strip_accents": "accents are removed, by BERT-like classes",
    "tokenize_chinese_chars": "Chinese characters are tokens of their own, by BERT-like classes",
    "add_prefix_space": "a space before each text, by byte-level and SentencePiece-like classes",
    "legacy": "where LlamaTokenizer of transformers 5 puts spaces",
    "keep_accents": "accents are kept, by Albert",
    "split_by_punct": "punctuation is split off, by DebertaV2",
    "extra_ids": "how many sentinel tokens T5 adds",
    "unk_id": "id of the unknown token, by DebertaV2",
}
"""Keys of tokenizer_config.json that may change ids, and what they do. They are part of the fingerprint."""

CHECKED = {
    "truncation_side": "only right is supported",
    "auto_map": "code of the repository is not run",
    "from_slow": "the files of the slow tokenizer are not read",
    "fix_mistral_regex": "the pre-tokenizer of tokenizer.json is used as it is",
    "init_inputs": "positional arguments of a class are not supported",
    "model_input_names": "a model gets ids and the mask",
    "backend": "only the tokenizers package is used",
    "fast_tokenizer_files": "files other than tokenizer.json are not read",
}
"""Keys of tokenizer_config.json that have one supported value, and why; any other value is refused."""

HARMLESS = {
    "padding_side": "rows are padded, or not, by the encoder, which makes its own mask",
    "pad_to_multiple_of": "of padding, see padding_side",
    "pad_token_type_id": "of padding, see padding_side",
    "padding": "of the call that was saved",
    "padding_strategy": "of padding, see padding_side",
    "max_length": "of the call that was saved; sentence-transformers gives its own",
    "stride": "of the call that was saved",
    "truncation": "of the call that was saved",
    "truncation_strategy": "of the call that was saved; there is one text in a row",
    "clean_up_tokenization_spaces": "of decoding",
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": "of decoding",
    "spaces_between_special_tokens": "of decoding",
    "errors": "of decoding bytes",
    "trim_offsets": "offsets of tokens, not their ids",
    "chat_template": "of chats",
    "response_template": "of chats",
    "response_schema": "of chats",
    "chat_control_tokens": "of chats",
    "use_default_system_prompt": "of chats",
    "grounded_generation_template": "of chats",
    "tool_use_template": "of chats",
    "name_or_path": "where the file comes from",
    "special_tokens_map_file": "where the file comes from; special_tokens_map.json beside it is read",
    "tokenizer_file": "where the file comes from; transformers 5 reads tokenizer.json beside it",
    "full_tokenizer_file": "where the file comes from",
    "vocab_file": "where the file comes from",
    "merges_file": "where the file comes from",
    "transformers_version": "which version wrote the file",
    "_commit_hash": "which commit the file was downloaded from",
    "is_local": "whether the file was downloaded when it was saved",
    "local_files_only": "whether the file was downloaded when it was saved",
    "processor_class": "a processor hands texts to this tokenizer",
    "feature_extractor_type": "not of texts",
    "image_processor_type": "not of texts",
    "use_fast": "read by no version from this file",
    "verbose": "of messages",
    "do_basic_tokenize": "of slow tokenizers only, which neither version uses beside a tokenizer.json",
    "never_split": "of slow tokenizers only",
    "sp_model_kwargs": "of slow tokenizers only",
    "remove_space": "of slow tokenizers only; the classes known here keep it as an attribute",
    "return_token_type_ids": "token types of a single text are 0",
    "vocab_size": "the vocabulary is that of tokenizer.json",
    **{f"{key}_id": "ids of special tokens are looked up by their names" for key in TOKENS},
}
"""Keys of tokenizer_config.json that change no id, and why."""

MAP_KEYS = frozenset({*TOKENS, "additional_special_tokens", "extra_special_tokens"})
"""Keys of special_tokens_map.json, beside names that end in _token."""

GENERIC = "TokenizersBackend"
"""The class that takes tokenizer.json as it is, also called PreTrainedTokenizerFast."""

_BERT = "BertTokenizer"
_ROBERTA = "RobertaTokenizer"
CLASSES: dict[str, str] = {
    **dict.fromkeys((GENERIC, "PreTrainedTokenizer", "BloomTokenizer", "MT5Tokenizer"), GENERIC),
    **dict.fromkeys(
        (_BERT, "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer", "SqueezeBertTokenizer"), _BERT
    ),
    **dict.fromkeys(("LayoutLMTokenizer", "LxmertTokenizer"), _BERT),
    **dict.fromkeys((_ROBERTA, "LongformerTokenizer", "BartTokenizer", "LEDTokenizer", "MvpTokenizer"), _ROBERTA),
    **{
        name: name
        for name in (
            *("MPNetTokenizer", "XLMRobertaTokenizer", "CamembertTokenizer", "AlbertTokenizer", "T5Tokenizer"),
            *("DebertaV2Tokenizer", "DebertaTokenizer", "LlamaTokenizer", "GemmaTokenizer", "CohereTokenizer"),
            *("Qwen2Tokenizer", "Qwen3_5Tokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "BigBirdTokenizer"),
        )
    },
}
"""Classes that are known, without Fast at the end, and the class of transformers 5 that each name stands for."""

FLAGGED = {
    "LlamaTokenizer": (True, False),
    "GemmaTokenizer": (True, False),
    "CohereTokenizer": (True, False),
    "GPTNeoXTokenizer": (False, False),
}
"""Classes of transformers 4 that obey add_bos_token and add_eos_token, and their defaults (BOS, EOS)."""

ONLY_5 = frozenset({GENERIC, "Qwen3_5Tokenizer"})
"""Classes that transformers 4 does not know."""

DEPARTURES = {
    "add_bos_token, add_eos_token": (
        "transformers 5 drops both keys where there is a tokenizer.json (tokenization_utils_base.py), so that "
        "e5-mistral and its like lose EOS. A class in FLAGGED obeys them here, as in transformers 4, which these "
        "models were trained with."
    ),
}
"""Where ids are not those of transformers 5, on purpose."""

DEFAULT_5: dict[str, str] = {
    **dict.fromkeys(
        (
            *("align", "bark", "bert", "blip", "bros", "chinese_clip", "convbert", "distilbert", "electra", "ernie"),
            *(
                "flava",
                "git",
                "grounding-dino",
                "layoutlm",
                "megatron-bert",
                "mm-grounding-dino",
                "nezha",
                "nomic_bert",
            ),
            *("qdqbert", "realm", "retribert", "squeezebert", "tvp", "vilt", "visual_bert"),
        ),
        _BERT,
    ),
    "mobilebert": "MobileBertTokenizer",
    "lxmert": "LxmertTokenizer",
    **dict.fromkeys(
        (
            *("bart", "bridgetower", "clap", "data2vec-text", "ibert", "lilt", "longformer", "mega", "mra", "roberta"),
            "roberta-prelayernorm",
        ),
        _ROBERTA,
    ),
    "led": "LEDTokenizer",
    "mvp": "MvpTokenizer",
    "florence2": "BartTokenizer",
    **dict.fromkeys(
        (
            *("blip-2", "codegen", "dbrx", "emu3", "gpt2", "gpt_neo", "gptj", "hyperclovax_vision_v2", "instructblip"),
            *("instructblipvideo", "jais2", "opt", "phi", "starcoder2"),
        ),
        "GPT2Tokenizer",
    ),
    **dict.fromkeys(
        ("falcon_mamba", "gpt_neox", "mamba", "mamba2", "mpt", "olmo", "olmoe", "rwkv", "xlstm"), "GPTNeoXTokenizer"
    ),
    **dict.fromkeys(
        (
            *("audioflamingo3", "colqwen2", "cosmos3_omni", "dots3_note", "fun_asr_nano", "hunyuan_vl", "internvl"),
            *("moss_transcribe_diarize", "ovis2", "qianfan_ocr", "qwen2", "qwen2_5_omni", "qwen2_5_vl", "qwen2_audio"),
            *("qwen2_moe", "qwen2_vl", "qwen3", "qwen3_asr", "qwen3_moe", "qwen3_next", "qwen3_omni_moe", "qwen3_vl"),
            *("qwen3_vl_moe", "lighton_ocr", "vibevoice"),
        ),
        "Qwen2Tokenizer",
    ),
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen4_exp"), "Qwen3_5Tokenizer"),
    **dict.fromkeys(
        (
            *("diffusion_gemma", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text"),
            *("recurrent_gemma", "shieldgemma2", "t5gemma", "zaya"),
        ),
        "GemmaTokenizer",
    ),
    **dict.fromkeys(("aya_vision", "cohere", "cohere2"), "CohereTokenizer"),
    **dict.fromkeys(("gte", "jina_embeddings_v3", "metaclip_2", "trocr", "xlm-roberta", "xmod"), "XLMRobertaTokenizer"),
    **dict.fromkeys(("albert", "yoso"), "AlbertTokenizer"),
    **dict.fromkeys(("mt5", "musicgen", "musicgen_melody", "switch_transformers", "t5"), "T5Tokenizer"),
    **dict.fromkeys(("idefics", "idefics2"), "LlamaTokenizer"),
    "deberta-v2": "DebertaV2Tokenizer",
    "deberta": "DebertaTokenizer",
    "camembert": "CamembertTokenizer",
    "mpnet": "MPNetTokenizer",
    "big_bird": "BigBirdTokenizer",
}
"""Class of transformers 5 by model_type, where it is one of CLASSES and not the generic one (tokenization_auto.py)."""

UNKNOWN_5: dict[str, str] = {
    "aimv2": "CLIPTokenizer",
    "barthez": "BarthezTokenizer",
    "bartpho": "BartphoTokenizer",
    "bert-generation": "BertGenerationTokenizer",
    "bert-japanese": "BertJapaneseTokenizer",
    "bertweet": "BertweetTokenizer",
    "biogpt": "BioGptTokenizer",
    "blenderbot": "BlenderbotTokenizer",
    "byt5": "ByT5Tokenizer",
    "canine": "CanineTokenizer",
    "clip": "CLIPTokenizer",
    "code_llama": "CodeLlamaTokenizer",
    "ctrl": "CTRLTokenizer",
    "dpr": "DPRQuestionEncoderTokenizer",
    "esm": "EsmTokenizer",
    "esmc": "EsmcTokenizer",
    "flaubert": "FlaubertTokenizer",
    "fnet": "FNetTokenizer",
    "fsmt": "FSMTTokenizer",
    "funnel": "FunnelTokenizer",
    "gpt-sw3": "GPTSw3Tokenizer",
    "herbert": "HerbertTokenizer",
    "luke": "LukeTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mluke": "MLukeTokenizer",
    "nllb": "NllbTokenizer",
    "nllb-moe": "NllbTokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "pegasus": "PegasusTokenizer",
    "perceiver": "PerceiverTokenizer",
    "phobert": "PhobertTokenizer",
    "plbart": "PLBartTokenizer",
    "prophetnet": "ProphetNetTokenizer",
    "reformer": "ReformerTokenizer",
    "rembert": "RemBertTokenizer",
    "roc_bert": "RoCBertTokenizer",
    "roformer": "RoFormerTokenizer",
    "siglip": "SiglipTokenizer",
    "siglip2": "Siglip2Tokenizer",
    "splinter": "SplinterTokenizer",
    "tapas": "TapasTokenizer",
    "udop": "UdopTokenizer",
    "whisper": "WhisperTokenizer",
    "xglm": "XGLMTokenizer",
    "xlm": "XLMTokenizer",
    "xlnet": "XLNetTokenizer",
}
"""Class of transformers 5 by model_type, where it is none of CLASSES: refused unless a file names another class."""

GENERIC_5 = frozenset(
    (
        *("arctic", "aria", "beam", "bigbird_pegasus", "camembertv2-base", "canary", "chatlm", "cohere_asr"),
        *("ernie4_5", "ernie4_5_moe", "flex_olmo", "fuyu", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "glm4v"),
        *("glm4v_moe", "glm_image", "glmasr", "got_ocr2", "gpt_bigcode", "gradium_phonon_tts", "granite"),
        *("granitemoe", "granitemoehybrid", "granitemoeshared", "h2ovl_chat", "hyperclovax", "hyperclovax_vlm"),
        *("internlm2", "internlm3", "iquestcoder", "jamba", "kimi_k25", "kimi_linear", "kosmos-2", "llava"),
        *("llava_next", "mimo_v2_flash", "minicpm3", "minicpm_ocr", "minicpmv", "minicpmv4_6", "minicpmv4_7"),
        *("minimax_m2", "ministral", "ministral3", "mistral", "mistral3", "mistral_large4", "mixtral", "modernbert"),
        *("modernbert-decoder", "molmo", "molmo2", "nemo_speechlm", "nemotron", "nvfp4", "nystromformer", "olmo2"),
        *("olmo3", "olmo_hybrid", "omniasr", "opencua", "openvla", "paddleocr_vl", "pegasus_x", "persimmon", "phi3"),
        *("phi3_v", "phimoe", "pix2struct", "pixtral", "pocket_tts", "smolvlm", "stablelm", "step3_vl", "umt5"),
        *("vipllava", "voxtral", "voxtral_realtime", "xlm-roberta-xl"),
    )
)
"""Types of models for which transformers 5 takes tokenizer.json as it is, whichever class is named."""

FORCED_5 = frozenset(
    ("qwen2", "qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen4_exp", "hyperclovax_vision_v2", "siglip2")
)
"""Types of models for which transformers 5 takes its own class instead of a specialized one that is named."""

LLAMA_MODELS = frozenset({"llama", "mistral", "mixtral", "phi3"})
"""Types of models whose class of transformers 4 is LlamaTokenizer where no file names one."""
