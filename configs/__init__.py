"""The shipped experiments, one YAML each; a package only so that they are installed with the code."""
