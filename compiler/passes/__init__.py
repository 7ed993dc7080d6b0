"""Graph passes, one a file; `athanor.compiler.pipeline` orders them."""
