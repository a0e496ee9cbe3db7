//! What a client may do wrong.
