"""Commands of `synreal`, one module each; `synreal.cli` names them."""
