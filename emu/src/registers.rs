//! The register file (11.4): which register an access means, what it reads as, what writing does.
