def make_pairs(imgs: list, scene_graph: str = "complete", prefilter=None, symmetrize: bool = True) -> list:
    assert scene_graph == "complete" and prefilter is None
    pairs = [(imgs[a], imgs[b]) for a in range(len(imgs)) for b in range(a)]
    return pairs + [(b, a) for a, b in pairs] if symmetrize else pairs
