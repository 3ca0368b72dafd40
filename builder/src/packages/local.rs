//! Packages that the recipe brings itself.
