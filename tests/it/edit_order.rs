//! Items change after the order was placed.
