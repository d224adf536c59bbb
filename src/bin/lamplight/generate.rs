//! `lamplight generate`: goes on with a text, or answers a chat message.

use lamplight::engine::{
    ChatRequest, CompletionRequest, Event, NoPause, Outcome, Prompt, SamplingParams, TokenLogprob,
};
use lamplight::error::Result;
use lamplight::text::{ChatMessage, EncodeOptions};
use serde_json::json;

use super::common::{ModelArgs, print, print_json};

#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["prompt", "ids"])))]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// The beginning of the text, or with --chat the user's message
    #[arg(long, allow_hyphen_values = true)]
    prompt: Option<String>,
    /// The beginning as token ids, separated by commas and used as they are
    #[arg(long, value_delimiter = ',', conflicts_with = "chat")]
    ids: Vec<u32>,
    /// Answer the prompt by the model's chat template
    #[arg(long)]
    chat: bool,
    /// With --chat: a system message before the user's
    #[arg(long, requires = "chat")]
    system: Option<String>,
    /// Read special tokens that are written out in the prompt as such
    #[arg(long, conflicts_with = "chat")]
    special: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print one JSON object at the end instead of the text as it comes
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct SamplingArgs {
    /// Most tokens to generate
    #[arg(long, default_value_t = 128)]
    max_tokens: u32,
    /// Divides the logits; 0 takes the most probable token each time
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep this many of the most probable tokens (0: all)
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Keep the most probable tokens that together reach this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Keep tokens this probable relative to the most probable one
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Divide the logits of the last 64 tokens
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Subtract from the logits of generated tokens
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    presence_penalty: f32,
    /// Subtract from the logits of generated tokens for each time they came
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    frequency_penalty: f32,
    /// Add to the logit of a token, as ID=BIAS with a bias from -100 to 100; may be given several times
    #[arg(long, value_parser = bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,
    /// The only token ids that may come, separated by commas; the end of the text only if it is among them
    #[arg(long, value_delimiter = ',')]
    allowed_token_ids: Vec<u32>,
    /// Print each token's log-probability, and so many of the most probable tokens in its place (at most 20)
    #[arg(long)]
    logprobs: Option<u32>,
    /// Seed of the random numbers
    #[arg(long)]
    seed: Option<u64>,
    /// A string that ends the text; may be given several times
    #[arg(long)]
    stop: Vec<String>,
}

fn bias(text: &str) -> std::result::Result<(u32, f32), String> {
    let parts = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parts.ok_or_else(|| "it is written as ID=BIAS, such as 50=-100".to_owned())
}

impl From<SamplingArgs> for SamplingParams {
    fn from(args: SamplingArgs) -> Self {
        SamplingParams {
            temperature: args.temperature,
            top_p: args.top_p,
            top_k: args.top_k,
            min_p: args.min_p,
            repetition_penalty: args.repetition_penalty,
            presence_penalty: args.presence_penalty,
            frequency_penalty: args.frequency_penalty,
            seed: args.seed,
            stop: args.stop,
            logit_bias: args.logit_bias,
            allowed_token_ids: (!args.allowed_token_ids.is_empty()).then_some(args.allowed_token_ids),
            top_logprobs: args.logprobs,
            stop_token_ids: Vec::new(),
            max_tokens: Some(args.max_tokens),
        }
    }
}

pub(crate) fn run(args: Args) -> Result<()> {
    let sampling = SamplingParams::from(args.sampling);
    // Before minutes are spent on loading.
    sampling.validate()?;
    let backend = args.model.backend.as_str();
    let mut engine = args.model.load(None)?;
    let mut shown = Ok(());
    let on_event = |event| {
        if let Event::Text { text, .. } = event
            && !args.json
            && shown.is_ok()
        {
            shown = print(&text);
        }
    };
    let outcome = match (args.prompt, args.chat) {
        (Some(content), true) => {
            let message = |role: &str, content| ChatMessage::new(role, content);
            let system = args.system.map(|content| message("system", content));
            let request = ChatRequest {
                messages: system.into_iter().chain([message("user", content)]).collect(),
                sampling,
                ..ChatRequest::default()
            };
            pollster::block_on(engine.chat(request, &NoPause, on_event))?
        }
        (prompt, _) => {
            let options = EncodeOptions { add_special: true, parse_special: args.special };
            let ids = prompt.map_or(args.ids, |text| engine.tokenize(&text, options));
            let prompt = Prompt::Ids(ids);
            pollster::block_on(engine.complete(CompletionRequest { prompt, sampling }, &NoPause, on_event))?
        }
    };
    shown?;
    match args.json {
        true => print_json(&report(&outcome, backend)),
        false => {
            let lines = outcome.logprobs.iter().flatten().map(line);
            print(&format!("\n{}", lines.collect::<String>()))
        }
    }
}

/// A token with those most probable in its place, as a line.
fn line(token: &TokenLogprob) -> String {
    let one =
        |token: &TokenLogprob| format!("{:.4} {:?}", token.logprob, String::from_utf8_lossy(&token.bytes));
    let top: Vec<String> = token.top.iter().map(one).collect();
    format!("{}{}{}\n", one(token), if top.is_empty() { "" } else { "  of  " }, top.join(", "))
}

fn report(outcome: &Outcome, backend: &str) -> serde_json::Value {
    let timings = outcome.usage.timings;
    json!({
        "ids": outcome.ids,
        "text": outcome.text,
        "logprobs": outcome.logprobs,
        "finish_reason": outcome.finish_reason,
        "prompt_tokens": outcome.usage.prompt_tokens,
        "completion_tokens": outcome.usage.completion_tokens,
        "ttft_ms": timings.ttft_ms,
        "prefill_tok_s": timings.prefill_tok_s,
        "decode_tok_s": timings.decode_tok_s,
        "backend": backend,
    })
}
