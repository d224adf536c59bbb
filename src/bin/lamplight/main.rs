//! `lamplight`: inspects and runs models natively. Results go to stdout, errors to stderr; the exit status is 1 for an
//! error and 2 for wrong usage.

mod bench;
mod common;
mod embed;
mod fidelity;
mod generate;
mod inspect;
mod logits;
mod manifest;
mod quantize;
mod synthetic;
mod tokenize;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs open-weight language models.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows what a model file is and whether it can be run
    Inspect(inspect::Args),
    /// Prints the token ids of a text as a JSON array
    Tokenize(tokenize::Args),
    /// Writes the logits after each of some tokens to a safetensors file
    Logits(logits::Args),
    /// Goes on with a text, or answers it as a chat message
    Generate(generate::Args),
    /// Prints the embedding of each text as a JSON array
    Embed(embed::Args),
    /// Writes a model file with its weights in another format
    Quantize(quantize::Args),
    /// Prints the manifest of a model: what its files must be, part by part
    Manifest(manifest::Args),
    /// Measures how far each way of computing is from float32 maths, by weight format
    Fidelity(fidelity::Args),
    /// Measures the speed of prefill and decoding
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Tokenize(args) => tokenize::run(&args),
        Command::Logits(args) => logits::run(&args),
        Command::Generate(args) => generate::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Quantize(args) => quantize::run(&args),
        Command::Manifest(args) => manifest::run(&args),
        Command::Fidelity(args) => fidelity::run(&args),
        Command::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", common::describe(&error));
            ExitCode::FAILURE
        }
    }
}
