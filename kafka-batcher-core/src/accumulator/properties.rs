//! Any sequence of calls, against a model.
