//! A model file behind a URL, read by HTTP ranges; servers without ranges are read as one stream.
//!
//! Principal type: [`HttpFile`]. Bytes stay in JS arrays, outside of the wasm memory. Knows nothing of models, parts or
//! storage.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use js_sys::{Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, Headers, ReadableStreamDefaultReader, RequestInit, Response};

use super::answer::{ContentRange, Version, content_length, header};
use super::patience::Patience;
use super::resolve::Resolver;
use super::task::{describe, navigator, sleep};
use crate::error::{Error, ErrorCode, Result};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(catch, js_name = fetch)]
    fn js_fetch(url: &str, init: &RequestInit) -> std::result::Result<js_sys::Promise, JsValue>;
}

/// Failures in a row, without a byte in between, before giving up.
const MAX_TRIES: u32 = 5;
/// Failures of one read altogether: a connection that keeps breaking is better left to the caller's patience.
const MAX_FAILURES: u32 = 8;
/// Wait after the first failure, in milliseconds; doubled after each further one.
const FIRST_WAIT_MS: f64 = 250.0;
/// Longest wait that a server may ask for by `Retry-After`.
const MAX_WAIT_MS: f64 = 10_000.0;

/// How often the page is asked for another address of one read, and how often its answer is looked for, in milliseconds.
const MAX_ASKED: u32 = 3;
const ANSWER_LOOK_MS: f64 = 30.0;

/// How often it is looked whether there is a network again, in milliseconds.
const OFFLINE_LOOK_MS: f64 = 500.0;

/// How one attempt failed.
struct Failure {
    error: Error,
    /// The same request may succeed later; the wait that the server asked for.
    retry: Option<Option<f64>>,
    /// The status that says that another address may have what this one has not (any more).
    refused: Option<u16>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { error, retry: None, refused: None }
    }
}

fn transient(code: ErrorCode, message: String) -> Failure {
    Failure { error: Error::new(code, message), retry: Some(None), refused: None }
}

/// A body that is read from its start, for servers that do not know ranges.
struct Sequential {
    reader: ReadableStreamDefaultReader,
    /// Position in the file of the next byte that [`Sequential::next`] gives.
    position: u64,
    /// Rest of the last chunk.
    rest: Option<Uint8Array>,
}

/// A file behind a URL.
pub struct HttpFile {
    /// Where it is now: signed links run out.
    url: RefCell<String>,
    /// Who may know another address.
    resolver: Option<Resolver>,
    /// Whether the page is being asked.
    asking: Cell<bool>,
    /// The caller's own, such as an authorization.
    headers: Vec<(String, String)>,
    /// False where we keep the parts ourselves: the browser's cache would only keep them a second time.
    use_http_cache: bool,
    /// Stops every request of the file at once.
    controller: AbortController,
    /// What the answers so far, or an earlier load, said of the file.
    version: RefCell<Version>,
    /// Whether the server knows ranges; `None` before its first answer.
    ranges: Cell<Option<bool>>,
    /// The open stream, between two reads.
    sequential: RefCell<Option<Sequential>>,
    /// The file turned out to be another one than [`HttpFile::expect`] said.
    changed: Cell<bool>,
    /// Bytes received, skipped and repeated ones included.
    received: Rc<Cell<u64>>,
    /// Told of every byte put in its place.
    on_bytes: Box<dyn Fn(u64)>,
}

impl HttpFile {
    /// Nothing is requested yet. Browsers' own cache is left out where we keep the parts ourselves.
    /// # Errors
    /// `Internal` where the browser has no `AbortController`.
    pub fn new(
        url: String,
        resolver: Option<Resolver>,
        headers: Vec<(String, String)>,
        use_http_cache: bool,
        on_bytes: impl Fn(u64) + 'static,
    ) -> Result<Self> {
        let controller =
            AbortController::new().map_err(|thrown| Error::new(ErrorCode::Internal, describe(&thrown)))?;
        Ok(Self {
            url: RefCell::new(url),
            resolver,
            asking: Cell::new(false),
            headers,
            use_http_cache,
            controller,
            version: RefCell::default(),
            ranges: Cell::new(None),
            sequential: RefCell::new(None),
            changed: Cell::new(false),
            received: Rc::default(),
            on_bytes: Box::new(on_bytes),
        })
    }

    /// The file must be this one; an answer that says otherwise fails, and [`HttpFile::changed`] tells.
    pub fn expect(&self, version: Version) {
        self.version.replace(version);
    }

    /// What the server said about the file so far.
    pub fn version(&self) -> Version {
        self.version.borrow().clone()
    }

    /// Whether the server has another file now than the one expected.
    pub fn changed(&self) -> bool {
        self.changed.get()
    }

    /// Where the file is.
    pub fn url(&self) -> String {
        self.url.borrow().clone()
    }

    /// Whether ranges can be read side by side.
    pub fn has_ranges(&self) -> bool {
        self.ranges.get() == Some(true)
    }

    /// Bytes received so far, over all requests.
    pub fn received(&self) -> u64 {
        self.received.get()
    }

    /// Stops all requests.
    pub fn cancel(&self) {
        self.controller.abort();
    }

    /// Fills `target` with the bytes of the file from `start` on, and gives how many there were: fewer only when the
    /// file ends before. Goes on after transient failures from the byte where it was cut off.
    /// # Errors
    /// `Network`, `HttpStatus`, `NotAModel` (an HTML page), `Integrity` (an answer that contradicts the request or an
    /// earlier answer), `Aborted`.
    pub async fn read(&self, start: u64, target: &Uint8Array) -> Result<u32> {
        let mut filled = 0;
        let mut tries = 0;
        let mut failures = 0;
        let mut asked = 0;
        loop {
            let before = filled;
            let url = self.url();
            let Err(failure) = self.attempt(start, target, &mut filled).await else {
                if filled < target.length() {
                    self.version.borrow_mut().size.get_or_insert(start + u64::from(filled));
                }
                return Ok(filled);
            };
            if self.controller.signal().aborted() {
                return Err(Error::new(ErrorCode::Aborted, "the download was stopped"));
            }
            // Asked anew, an address that passes on to a signed one may do by itself.
            if let Some(status) = failure.refused.filter(|_| failure.retry.is_none() || tries > 0)
                && asked < MAX_ASKED
                && self.renew(&url, status).await?
            {
                asked += 1;
                continue;
            }
            let Some(wait) = failure.retry else { return Err(failure.error) };
            if is_offline() {
                // No failure of the server's: it goes on by itself when there is a network again.
                while is_offline() && !self.controller.signal().aborted() {
                    self.wait(OFFLINE_LOOK_MS).await;
                }
                continue;
            }
            tries = if filled > before { 1 } else { tries + 1 };
            failures += 1;
            if tries >= MAX_TRIES || failures >= MAX_FAILURES {
                return Err(failure.error);
            }
            // Spread, so that parts that failed together do not come back together.
            let spread = 1.0 + 0.3 * js_sys::Math::random();
            let wait = wait.unwrap_or(FIRST_WAIT_MS * f64::from(1 << (tries - 1))) * spread;
            self.wait(wait.min(MAX_WAIT_MS)).await;
        }
    }

    /// All of a small file, without ranges; `None` when the server has none (or shows a page instead).
    /// # Errors
    /// `Network`, `HttpStatus`.
    pub async fn read_all(&self) -> Result<Option<Vec<u8>>> {
        let mut asked = 0;
        let response = loop {
            let url = self.url();
            let response = match self.request(None).await {
                Ok(response) => response,
                Err(Failure { error, .. }) if error.code() == ErrorCode::NotAModel => return Ok(None),
                Err(Failure { error, .. }) => return Err(error),
            };
            match response.status() {
                200..300 => break response,
                404 | 410 => return Ok(None),
                status @ (401 | 403) if asked < MAX_ASKED && self.renew(&url, status).await? => asked += 1,
                status => return Err(self.status_failure(&response, status).error),
            }
        };
        let broken = |thrown: JsValue| {
            let message = format!("{} broke off: {}", self.url(), describe(&thrown));
            Error::new(ErrorCode::Network, message)
        };
        let buffer = JsFuture::from(response.array_buffer().map_err(broken)?).await.map_err(broken)?;
        let bytes = Uint8Array::new(&buffer);
        self.received.set(self.received.get() + u64::from(bytes.length()));
        Ok(Some(bytes.to_vec()))
    }

    /// Has the page name another address than `url`, which was refused; false where there is nobody to ask. Reads that
    /// were refused together ask once.
    async fn renew(&self, url: &str, status: u16) -> Result<bool> {
        let Some(resolver) = &self.resolver else { return Ok(false) };
        while self.asking.get() {
            self.wait(ANSWER_LOOK_MS).await;
        }
        let aborted = || self.controller.signal().aborted();
        if self.url() != url && !aborted() {
            return Ok(true);
        }
        self.asking.set(true);
        let question = resolver.ask(url, status);
        let answer = loop {
            match question.answer() {
                Some(answer) => break answer,
                None if aborted() => break Err(Error::new(ErrorCode::Aborted, "the download was stopped")),
                None => self.wait(ANSWER_LOOK_MS).await,
            }
        };
        self.asking.set(false);
        self.url.replace(answer?);
        Ok(true)
    }

    /// Sleeps in short steps, so that an abort is seen soon.
    async fn wait(&self, milliseconds: f64) {
        let mut left = milliseconds;
        while left > 0.0 && !self.controller.signal().aborted() {
            sleep(left.min(100.0)).await;
            left -= 100.0;
        }
    }

    /// One try for what is missing in `target`.
    async fn attempt(
        &self,
        start: u64,
        target: &Uint8Array,
        filled: &mut u32,
    ) -> std::result::Result<(), Failure> {
        if self.ranges.get() != Some(false) {
            let range = start + u64::from(*filled)..start + u64::from(target.length());
            let response = self.request(Some(&range)).await?;
            match response.status() {
                206 => return self.read_range(&response, &range, target, filled).await,
                // The server ignores ranges: this answer is the file from its start.
                200 if self.ranges.get().is_none() => self.start_sequential(&response)?,
                200 => {
                    let message = format!("{} stopped answering range requests", self.url());
                    return Err(transient(ErrorCode::Network, message));
                }
                // Of an empty file not even the first byte can be had.
                416 if range.start == 0 || self.size().is_some_and(|size| range.start >= size) => {
                    return Ok(());
                }
                status => return Err(self.status_failure(&response, status)),
            }
        }
        self.read_sequential(start, target, filled).await
    }

    fn size(&self) -> Option<u64> {
        self.version.borrow().size
    }

    /// Sends one request; resolves when the answer's headers are there.
    async fn request(&self, range: Option<&Range<u64>>) -> std::result::Result<Response, Failure> {
        let broken = |thrown: JsValue| {
            let message = format!("the request for {} cannot be made: {}", self.url(), describe(&thrown));
            Failure::from(Error::new(ErrorCode::InvalidRequest, message))
        };
        let headers = Headers::new().map_err(broken)?;
        for (name, value) in &self.headers {
            headers.set(name, value).map_err(broken)?;
        }
        if let Some(range) = range {
            let value = format!("bytes={}-{}", range.start, range.end - 1);
            headers.set("Range", &value).map_err(broken)?;
        }
        let init = RequestInit::new();
        init.set_headers(&headers);
        let patience = Patience::for_answer(&self.controller.signal(), &init);
        let cache = if self.use_http_cache { "default" } else { "no-store" };
        for (name, value) in
            [("cache", cache), ("credentials", "same-origin"), ("referrerPolicy", "no-referrer")]
        {
            Reflect::set(&init, &name.into(), &value.into()).map_err(broken)?;
        }
        let promise = js_fetch(&self.url(), &init).map_err(broken)?;
        let answered = JsFuture::from(promise).await;
        drop(patience);
        let response = answered.map_err(|thrown| {
            let message = format!(
                "{} cannot be reached ({}): check the address and the connection; a server of another origin must \
                 allow this page (CORS)",
                self.url(),
                describe(&thrown)
            );
            transient(ErrorCode::Network, message)
        })?;
        let response: Response = response.unchecked_into();
        // A sign-in or "not found" page under status 200 is the commonest wrong answer; whatever its bytes, it is said so.
        if response.ok() && header(&response, "content-type").is_some_and(|t| t.contains("text/html")) {
            let message = format!("{} is a web page, not a model file", self.url());
            return Err(Error::new(ErrorCode::NotAModel, message).into());
        }
        Ok(response)
    }

    /// The failure that an answer's status means, and whether to ask again.
    fn status_failure(&self, response: &Response, status: u16) -> Failure {
        let advice = match status {
            401 | 403 => "the file needs a permission; pass it in the model's headers",
            404 | 410 => "there is no such file; check the address",
            416 => {
                // The file is shorter than the one that was begun.
                self.changed.set(self.size().is_some());
                "the server has no such part of the file"
            }
            429 => "the server asks for fewer requests; try later",
            _ => "the server failed; try later",
        };
        let text = response.status_text();
        let message = format!("{} was answered with {status} {text}: {advice}", self.url());
        let error = Error::new(ErrorCode::HttpStatus, message);
        // Seconds, or a date.
        let retry_after = header(response, "retry-after").map(|value| match value.parse::<f64>() {
            Ok(seconds) => seconds * 1000.0,
            Err(_) => js_sys::Date::parse(&value) - js_sys::Date::now(),
        });
        let retry_after = retry_after.filter(|wait| wait.is_finite()).map(|wait| wait.max(0.0));
        // Where a server passes on to an address with a signature, that runs out: asked anew, it gives another one.
        let signature = response.redirected() && matches!(status, 400 | 401 | 403 | 410);
        let again = signature || matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504);
        let refused = matches!(status, 401 | 403 | 404 | 410).then_some(status);
        Failure { error, retry: again.then_some(retry_after), refused }
    }

    /// Takes over what an answer says about the file, unless it contradicts what is known.
    fn check_version(&self, response: &Response, size: Option<u64>) -> Result<()> {
        let etag = header(response, "etag").filter(|etag| !etag.is_empty());
        let version = Version { size, etag, last_modified: header(response, "last-modified") };
        let mut known = self.version.borrow_mut();
        if !known.agrees(&version) {
            self.changed.set(true);
            let message = format!("{} is another file now than the one that was begun", self.url());
            return Err(Error::new(ErrorCode::Integrity, message));
        }
        known.learn(version);
        Ok(())
    }

    /// Reads the answer to a range request into its place in `target`.
    async fn read_range(
        &self,
        response: &Response,
        range: &Range<u64>,
        target: &Uint8Array,
        filled: &mut u32,
    ) -> std::result::Result<(), Failure> {
        if let Some(encoding) = header(response, "content-encoding").filter(|e| e != "identity") {
            let message =
                format!("{} sends ranges compressed ({encoding}): they cannot be placed", self.url());
            return Err(Error::new(ErrorCode::Integrity, message).into());
        }
        let mut expected = range.end - range.start;
        // Other origins show this header only when they expose it; then the length has to do.
        if let Some(value) = header(response, "content-range") {
            let sent = ContentRange::parse(&value).filter(|sent| {
                let last = sent.size.map_or(range.end, |size| size.min(range.end));
                sent.start == range.start && sent.end == last
            });
            let Some(sent) = sent else {
                let wanted = format!("bytes {}-{}", range.start, range.end - 1);
                let message = format!("{} sent \"{value}\" when asked for {wanted}", self.url());
                return Err(Error::new(ErrorCode::Integrity, message).into());
            };
            expected = sent.end - sent.start;
            self.check_version(response, sent.size)?;
        } else {
            self.check_version(response, None)?;
            if let Some(length) = content_length(response) {
                expected = expected.min(length);
            }
        }
        self.ranges.set(Some(true));
        let end = *filled + expected as u32;
        let reader = self.reader(response)?;
        let _patience = Patience::for_body(&reader, &self.received);
        while let Some(chunk) = self.next_chunk(&reader).await? {
            if chunk.length() > end - *filled {
                let _ = reader.cancel();
                let message = format!("{} sent more bytes than it announced", self.url());
                return Err(Error::new(ErrorCode::Integrity, message).into());
            }
            target.set(&chunk, *filled);
            *filled += chunk.length();
            (self.on_bytes)(u64::from(chunk.length()));
        }
        if *filled < end {
            let message = format!("{} sent {} bytes too few", self.url(), end - *filled);
            return Err(transient(ErrorCode::Network, message));
        }
        Ok(())
    }

    /// The file as one stream, from the answer to a request without (or with ignored) range.
    fn start_sequential(&self, response: &Response) -> std::result::Result<(), Failure> {
        // The length of a compressed body is not that of the file.
        let plain = header(response, "content-encoding").is_none_or(|e| e == "identity");
        let size = if plain { content_length(response) } else { None };
        self.check_version(response, size)?;
        let reader = self.reader(response)?;
        self.ranges.set(Some(false));
        self.sequential.replace(Some(Sequential { reader, position: 0, rest: None }));
        Ok(())
    }

    /// Reads on in the stream; one that is past `start` already, or was cut off, is begun again from the file's start.
    async fn read_sequential(
        &self,
        start: u64,
        target: &Uint8Array,
        filled: &mut u32,
    ) -> std::result::Result<(), Failure> {
        let from = start + u64::from(*filled);
        let mut stream = match self.sequential.take() {
            Some(stream) if stream.position <= from => stream,
            past => {
                if let Some(past) = past {
                    let _ = past.reader.cancel();
                }
                let response = self.request(None).await?;
                if response.status() != 200 {
                    return Err(self.status_failure(&response, response.status()));
                }
                self.start_sequential(&response)?;
                self.sequential.take().expect("invariant: start_sequential has just set it")
            }
        };
        let _patience = Patience::for_body(&stream.reader, &self.received);
        while *filled < target.length() {
            let Some(chunk) = self.next_sequential(&mut stream).await? else {
                return match self.size() {
                    Some(size) if stream.position < size => {
                        let missing = size - stream.position;
                        Err(transient(
                            ErrorCode::Network,
                            format!("{} sent {missing} bytes too few", self.url()),
                        ))
                    }
                    // Without a length, the end of the stream is the end of the file.
                    _ => {
                        self.version.borrow_mut().size = Some(stream.position);
                        Ok(())
                    }
                };
            };
            // Bytes before the wanted ones are passed over: the stream cannot jump.
            let at = stream.position;
            let needed = start + u64::from(*filled);
            let skip = (needed.saturating_sub(at)).min(u64::from(chunk.length())) as u32;
            let take = (chunk.length() - skip).min(target.length() - *filled);
            target.set(&chunk.subarray(skip, skip + take), *filled);
            *filled += take;
            (self.on_bytes)(u64::from(take));
            stream.position += u64::from(skip + take);
            if skip + take < chunk.length() {
                stream.rest = Some(chunk.subarray(skip + take, chunk.length()));
            }
        }
        self.sequential.replace(Some(stream));
        Ok(())
    }

    /// The next bytes of a stream, at its `position`.
    async fn next_sequential(
        &self,
        stream: &mut Sequential,
    ) -> std::result::Result<Option<Uint8Array>, Failure> {
        match stream.rest.take() {
            Some(rest) => Ok(Some(rest)),
            None => self.next_chunk(&stream.reader).await,
        }
    }

    fn reader(&self, response: &Response) -> std::result::Result<ReadableStreamDefaultReader, Failure> {
        let body = response.body().ok_or_else(|| {
            transient(ErrorCode::Network, format!("{} was answered without a body", self.url()))
        })?;
        Ok(body.get_reader().unchecked_into())
    }

    /// The next bytes of a body; `None` at its end.
    async fn next_chunk(
        &self,
        reader: &ReadableStreamDefaultReader,
    ) -> std::result::Result<Option<Uint8Array>, Failure> {
        let cut = |thrown: JsValue| {
            let message = format!("the connection to {} was cut ({})", self.url(), describe(&thrown));
            transient(ErrorCode::Network, message)
        };
        let next = JsFuture::from(reader.read()).await.map_err(cut)?;
        if Reflect::get(&next, &"done".into()).map_err(cut)?.is_truthy() {
            return Ok(None);
        }
        let chunk: Uint8Array = Reflect::get(&next, &"value".into()).map_err(cut)?.unchecked_into();
        self.received.set(self.received.get() + u64::from(chunk.length()));
        Ok(Some(chunk))
    }
}

/// Whether the browser says that it has no network at all; it may have none and not know.
fn is_offline() -> bool {
    navigator("onLine") == JsValue::FALSE
}
