import torch


@torch.no_grad()
def inference(pairs: list, model, device, batch_size: int = 8, verbose: bool = True) -> dict:
    if len({int(view["idx"]) for pair in pairs for view in pair}) > model.memory:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")
    print(f"inference of {len(pairs)} pairs")
    answers = [model(*pair) for pair in pairs]
    return {
        "view1": {"idx": [pair[0]["idx"] for pair in pairs]},
        "view2": {"idx": [pair[1]["idx"] for pair in pairs]},
        "pred1": {key: [first[key] for first, _ in answers] for key in ("pts3d", "conf")},
        "pred2": {key: [second[key] for _, second in answers] for key in ("pts3d_in_other_view", "conf")},
    }
