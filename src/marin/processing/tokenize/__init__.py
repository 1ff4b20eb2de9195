"""Documents to tokens: train a tokenizer, write token stores."""
