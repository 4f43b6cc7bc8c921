"""`python -m speech_gru`: the same as the command `speech-gru`."""

from speech_gru.cli import main

if __name__ == "__main__":
    main()
