"""RealTune on text: corpora, a small GPT-2, what synthetic text lacks, and Table 4 of P1."""
