"""Released VTA-LDM checkpoints: what is known of them, what is refused in one line, and our own format made of them."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from avtools import hub  # noqa: E402
from avtools.errors import FatalError, UsageError  # noqa: E402
from avtools.models.parts.video_encoders import ClipEncoder  # noqa: E402
from avtools.models.vta_ldm import checkpoint  # noqa: E402
from avtools.models.vta_ldm.config import UNETS, Config  # noqa: E402
from avtools.models.vta_ldm.model import Denoiser  # noqa: E402

UNET = {
    "in_channels": 8,
    "out_channels": 8,
    "block_out_channels": [32, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 16,
    "use_linear_projection": True,
}
TOWER = {"hidden_size": 64, "intermediate_size": 32, "projection_dim": 24, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 16, "patch_size": 8}


def small(**fields) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(Config(**{"unet": UNET, "token_dim": 16, "feature_dim": 24, "time_conditioning": "cross", **fields}), 8)


def released(denoiser: Denoiser, clip: ClipEncoder | None = None) -> dict:
    found = {name.replace("projection.", checkpoint.PROJECTION) if name.startswith("projection.") else name: t for name, t in denoiser.state_dict().items()}
    return found | ({checkpoint.CLIP + name: tensor for name, tensor in clip.model.state_dict().items()} if clip else {})


def full_size(name: str) -> dict:
    """Tensors with the names and shapes of a whole published model, each one number repeated."""
    unet = UNETS[name]
    with torch.device("meta"):
        denoiser = Denoiser(Config(unet=unet, token_dim=unet["cross_attention_dim"], time_conditioning="cross", adapters=unet["in_channels"] == 4), 8)
    return {key: torch.zeros(1).expand(tensor.shape) for key, tensor in released(denoiser).items()}


def fails(match: str, function, *arguments) -> None:
    with pytest.raises(FatalError, match=match) as failed:
        function(*arguments)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_released_folder_loads_whole(tmp_path, prefix):
    clip = ClipEncoder(TOWER)
    tensors = released(small(), clip)
    tensors[checkpoint.CLIP + "vision_model.embeddings.position_ids"] = torch.arange(5)[None]  # older transformers wrote it
    torch.save({prefix + name: tensor for name, tensor in tensors.items()}, tmp_path / checkpoint.DIFFUSION)
    found, tower = small(), ClipEncoder(checkpoint.released_clip(tmp_path))
    for module in (found, tower.model):
        for parameter in module.parameters():
            parameter.data.fill_(torch.nan)
    checkpoint.load_denoiser(found, tower, tmp_path)
    for module, wanted in ((found, small()), (tower.model, clip.model)):
        for name, tensor in wanted.state_dict().items():
            assert torch.equal(module.state_dict()[name], tensor), name


def test_files_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / checkpoint.DIFFUSION
    tensors = released(small())

    def refused(match, found, clip=None):
        torch.save(found, file)
        fails(match, checkpoint.load_denoiser, small(), clip, file)

    missing = dict(tensors)
    del missing["unet.conv_in.weight"]
    refused("1 missing: unet.conv_in.weight", missing)
    refused("1 unexpected: unet.extra", {**tensors, "unet.extra": torch.zeros(1)})
    wider = {**UNET, "block_out_channels": [32, 64]}
    refused("of another shape", released(small(unet=wider)))
    refused("unexpected: .*group_in.0.weight", {**tensors, "group_in.0.weight": torch.zeros(512, 8)})
    refused("missing: visual_projection.weight, |missing: vision_model", tensors, ClipEncoder(TOWER))
    torch.save(tensors, file)
    whole = file.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 100):
        file.write_bytes(whole[:size])
        fails(str(file), checkpoint.load_denoiser, small(), None, file)


@pytest.mark.parametrize("name", ["large", "large-2048", "pretrain", "stable-diffusion-2.1"])
def test_the_configuration_is_known_by_shapes(tmp_path, name):
    torch.save(full_size(name), tmp_path / checkpoint.DIFFUSION)
    config = checkpoint.config_of(tmp_path)
    assert config.unet == UNETS[name] and config.token_dim == UNETS[name]["cross_attention_dim"]
    assert config.adapters == (name == "stable-diffusion-2.1")
    assert (config.clip_normalise, config.legacy_frames, config.time_conditioning) == (False, True, "cross")
    torch.save(full_size(name), tmp_path / "loose.bin")
    assert checkpoint.config_of(tmp_path / "loose.bin") == config


def test_the_arguments_beside_a_checkpoint_are_believed_and_checked(tmp_path):
    torch.save(full_size("large"), tmp_path / checkpoint.DIFFUSION)
    told = {"unet_model_config": "configs/diffusion_model_config_large.json", "embedding_dim": 1024, "snr_gamma": None, "pe": True}
    told["fea_encoder_name"] = "openai/clip-vit-large-patch14-336"
    summary = tmp_path / "summary.jsonl"
    summary.write_text(json.dumps(told) + "\n\n" + json.dumps({"epoch": [1]}) + "\n")
    config = checkpoint.config_of(tmp_path)
    assert (config.snr_gamma, config.positions, config.encoder_model) == (None, True, told["fea_encoder_name"])
    for wrong in ({"unet_model_config": "x/diffusion_model_config_large_2048.json"}, {"embedding_dim": 2048}):
        summary.write_text(json.dumps({**told, **wrong}))
        fails("files of one checkpoint", checkpoint.config_of, tmp_path)
    summary.write_text("not JSON\n")
    fails("first line", checkpoint.config_of, tmp_path)


def test_an_unknown_unet_needs_a_preset(tmp_path):
    torch.save(released(small()), tmp_path / checkpoint.DIFFUSION)
    fails("none of the published", checkpoint.config_of, tmp_path)
    config = checkpoint.config_of(tmp_path, "released", [f"unet={json.dumps(UNET)}", "token_dim=16", "feature_dim=24"])
    checkpoint.load_denoiser(Denoiser(config, 8), None, tmp_path)
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.bin")
    fails("tells no configuration", checkpoint.config_of, tmp_path / "other.bin")


def test_a_codec_of_another_scale_is_refused(tmp_path):
    from avtools.models.parts.audioldm import AudioLdmCodec

    with torch.device("meta"):
        names = AudioLdmCodec().state_dict()
    found = {"state_dict": {f"{checkpoint.VAE}encoder.{k}": torch.zeros(1) for k in range(3)} | {"scale_factor": torch.tensor(0.9393)}}
    torch.save(found, tmp_path / "audioldm-s-full.ckpt")
    with torch.device("meta"):
        codec = AudioLdmCodec()
    fails("scale factor is 0.9393", checkpoint.read_codec, codec, tmp_path)
    torch.save({name: torch.zeros(1).expand(tensor.shape) for name, tensor in names.items() if name != "vae.quant_conv.bias"}, tmp_path / "pytorch_model.bin")
    fails("1 missing: vae.quant_conv.bias", checkpoint.read_codec, codec, tmp_path)
    fails("has none of", checkpoint.read_codec, codec, tmp_path.parent)


def test_training_starts_as_the_weights_did(tmp_path):
    """Aligned conditioning added to released weights changes nothing before the first step."""
    torch.save(released(small()), tmp_path / checkpoint.DIFFUSION)
    start = small(time_conditioning="both", aligned_channels=4)
    checkpoint.init_denoiser(start, str(tmp_path))
    latents, features = torch.randn(1, 8, 8, 4), [torch.randn(3, 24)]
    with torch.no_grad():
        made = [one(latents, torch.tensor([5]), one.condition(features, [None]), 0.04) for one in (small(), start)]
    assert torch.allclose(*made, atol=1e-5)
    narrow = small(unet={**UNET, "block_out_channels": [64, 64]})
    fails("of another shape", checkpoint.init_denoiser, narrow, str(tmp_path))
    bare = tmp_path / "unet.safetensors"
    hub.save_tensors(bare, small().unet.state_dict())
    own = small(feature_dim=7)
    checkpoint.init_denoiser(own, str(bare))
    assert torch.equal(own.unet.conv_in.weight, small().unet.conv_in.weight)


@pytest.fixture
def small_codec(monkeypatch):
    """The codec's default sizes made small: the real ones are half a gigabyte."""
    from avtools.models.parts import audioldm

    sizes = {"in_channels": 1, "out_ch": 1, "z_channels": 8, "ch": 32, "ch_mult": [1, 2, 4], "num_res_blocks": 1}
    monkeypatch.setattr(audioldm.AudioLdmCodec.__init__, "__defaults__", (sizes, {**audioldm.VOCODER, "upsample_initial_channel": 32}, audioldm.SCALE, None))
    return audioldm.AudioLdmCodec


def test_parts_come_from_the_main_weights_or_from_their_own(tmp_path, small_codec):
    from avtools.models.vta_ldm.system import CODEC, ENCODERS, MAIN

    clip, other, codec = ClipEncoder(TOWER), ClipEncoder(TOWER), small_codec()
    torch.save(released(small(), clip), tmp_path / checkpoint.DIFFUSION)
    hub.save_tensors(tmp_path / "clip-alone.safetensors", other.model.state_dict())
    hub.save_tensors(tmp_path / "codec.safetensors", codec.state_dict())
    config = Config(frame_size=16)
    main, own = hub.Weights.parse([str(tmp_path)]), hub.Weights.parse([str(tmp_path), f"clip={tmp_path}/clip-alone.safetensors"])
    for weights, wanted in ((main, clip), (own, other)):
        assert checkpoint.digest_of_module(checkpoint.picture_encoder(config, weights, ENCODERS)) == checkpoint.digest_of_module(wanted)
    for weights in (main, hub.Weights.parse([f"codec={tmp_path}/codec.safetensors"])):
        found = small_codec()
        checkpoint.load_codec(found, weights, MAIN, CODEC)
        assert checkpoint.digest_of_module(found) == checkpoint.digest_of_module(codec)


def test_our_own_checkpoints_load_their_moving_average(tmp_path, small_codec):
    folder = tmp_path / "run" / "checkpoints" / "step-00000003"
    folder.mkdir(parents=True)
    denoiser, average = small(), small()
    average.projection.bias.data.fill_(3.0)
    hub.save_tensors(folder / "model.safetensors", denoiser.state_dict())
    hub.save_tensors(folder / "ema.safetensors", average.state_dict())
    config = {"unet": UNET, "token_dim": 16, "feature_dim": 24, "time_conditioning": "cross", "encoder": "pixels", "frame_size": 4, "codec": "mel-bands"}
    (folder / "config.json").write_text(json.dumps({"system": "vta-ldm", "avtools": "0", "config": config}))

    class Asked:
        config = checkpoint.config_of(tmp_path / "run", sets=["steps=3"])
        denoiser, codec, text_encoder = small(), None, None

    assert Asked.config.sampling.steps == 3 and Asked.config.unet == UNET
    assert checkpoint.load_for_sampling(Asked, tmp_path / "run", hub.Weights(), None, None, {}).dim == 64
    assert Asked.denoiser.projection.bias[0] == 3.0
    (folder / "config.json").write_text(json.dumps({"system": "vta-ldm", "config": {"no_such": 1}}))
    fails("no_such", checkpoint.config_of, folder)


def test_converted_is_complete_and_the_same(tmp_path, monkeypatch, small_codec):
    monkeypatch.setitem(checkpoint.UNETS, "small", UNET)
    clip, codec, source, out = ClipEncoder(TOWER, False), small_codec(), tmp_path / "released", tmp_path / "ours"
    source.mkdir()
    torch.save(released(small(), clip), source / checkpoint.DIFFUSION)
    hub.save_tensors(source / "codec.safetensors", codec.state_dict())
    checkpoint.convert(source, out)
    assert not checkpoint.is_released(out) and checkpoint.config_of(out) == checkpoint.config_of(source)
    with pytest.raises(UsageError, match="leave out --preset"):
        checkpoint.config_of(out, "tiny")

    class Asked:
        config = checkpoint.config_of(out, sets=[f"frame_size={TOWER['image_size']}"])
        denoiser, codec, text_encoder = small(), small_codec(), None

    found = [checkpoint.load_for_sampling(Asked, path, hub.Weights(), None, None, {}) for path in (source, out)]
    assert checkpoint.digest_of_module(found[0]) == checkpoint.digest_of_module(found[1]) == checkpoint.digest_of_module(clip)
    assert checkpoint.digest_of_module(Asked.codec) == checkpoint.digest_of_module(codec)
    assert checkpoint.digest_of(source) != checkpoint.digest_of(out)
    Asked.config = checkpoint.config_of(out)
    with pytest.raises(UsageError, match="--set frame_size=16"):
        checkpoint.load_for_sampling(Asked, out, hub.Weights(), None, None, {})
    fails("choose another folder", checkpoint.convert, source, source / checkpoint.DIFFUSION / "below")
    (out / "config.json").write_text('{"system": "other", "config": {}}')
    fails("a checkpoint of other", checkpoint.config_of, out)
