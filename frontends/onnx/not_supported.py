"""Operators of the standard that stay without a converter, each with the reason and what helps."""

REASONS = {
    (
        "",
        "ImageDecoder",
    ): "decoding a file format is no tensor computation; decode the image before",
    ("", "TfIdfVectorizer"): "n-grams of tokens are looked up; vectorize before the model",
    ("ai.onnx.ml", "CastMap"): "maps are not tensors; give the model arrays",
    ("ai.onnx.ml", "DictVectorizer"): "maps are not tensors; give the model arrays",
    ("ai.onnx.preview.training", "Gradient"): "training; export the model for inference",
}
"""(domain, operator) -> reason."""
