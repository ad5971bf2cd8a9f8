//! What every request must be, and what every answer says.
//!
//! - A request looks and brings nothing: GET or HEAD, without a body, with a short target.
//! - It is meant for this server: its Host is localhost, an address of this machine, or a name that was allowed. A page of
//!   another site whose name was made to point here (DNS rebinding) is refused by that.
//! - An answer may load what it needs from here and nothing from elsewhere, is in no frame, and is kept by nobody.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Longest path of a request, bytes; no path here is half as long.
const TARGET_LEN: usize = 256;

/// What every answer says.
const SAID: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Names under which browsers may come, beside those that can only mean this machine. In lower case, without a port.
pub(crate) type Hosts = Arc<[String]>;

/// Refuses what is none of the above, and adds to every answer what it must say.
pub(crate) async fn check(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut answer = match refusal(&request, &hosts) {
        Some((StatusCode::METHOD_NOT_ALLOWED, why)) => {
            (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], why).into_response()
        }
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in SAID {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

fn refusal(request: &Request, hosts: &[String]) -> Option<(StatusCode, &'static str)> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some((StatusCode::METHOD_NOT_ALLOWED, "Nothing can be changed here: GET and HEAD only.\n"));
    }
    if request.uri().path().len() + request.uri().query().map_or(0, str::len) > TARGET_LEN {
        return Some((StatusCode::URI_TOO_LONG, "No path here is so long.\n"));
    }
    if brings_something(request.headers()) {
        return Some((StatusCode::PAYLOAD_TOO_LARGE, "A request here has no body.\n"));
    }
    if !is_meant_for_us(request, hosts) {
        let why = "This is not the host that was asked for; `vgem-web --host NAME` allows a name.\n";
        return Some((StatusCode::MISDIRECTED_REQUEST, why));
    }
    None
}

fn brings_something(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

/// Whether every host that the request names is ours. One that names none is of a program: browsers always do.
fn is_meant_for_us(request: &Request, hosts: &[String]) -> bool {
    let mut named = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(|host| host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()));
    let target = request.uri().authority();
    let ours = |authority: &Authority| is_ours(authority, hosts);
    if request.headers().get(header::HOST).is_none()
        && target.is_none()
        && request.version() != Version::HTTP_10
    {
        return false;
    }
    named.all(|host| host.as_ref().is_some_and(ours)) && target.is_none_or(ours)
}

fn is_ours(authority: &Authority, hosts: &[String]) -> bool {
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host().to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) || hosts.contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn of(method: &str, target: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        refusal(&request, &["vgem.example.org".into()]).map(|(code, _)| code.as_u16())
    }

    #[test]
    fn only_looking_is_allowed() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "LOOK"] {
            assert_eq!(of(method, "/", &[("host", "localhost")]), Some(405), "{method}");
        }
        assert_eq!(
            (of("GET", "/", &[("host", "localhost")]), of("HEAD", "/", &[("host", "[::1]:80")])),
            (None, None)
        );
    }

    #[test]
    fn a_host_is_localhost_an_address_of_this_machine_or_an_allowed_name() {
        for host in [
            "localhost",
            "LocalHost:7466",
            "127.0.0.1:7466",
            "127.8.8.8",
            "[::1]:7466",
            "vgem.example.org:80",
        ] {
            assert_eq!(of("GET", "/", &[("host", host)]), None, "{host}");
        }
        for host in [
            "evil.example.org",
            "localhost.evil.org",
            "192.168.1.1",
            "localhost@evil.org",
            "",
            "a b",
            "[::2]",
        ] {
            assert_eq!(of("GET", "/", &[("host", host)]), Some(421), "{host:?}");
        }
    }

    #[test]
    fn a_second_host_does_not_hide_behind_the_first() {
        assert_eq!(of("GET", "/", &[("host", "localhost"), ("host", "evil.org")]), Some(421));
        assert_eq!(of("GET", "http://evil.org/", &[("host", "localhost")]), Some(421));
        assert_eq!(of("GET", "/", &[]), Some(421));
    }

    #[test]
    fn a_request_brings_nothing_and_is_short() {
        let host = ("host", "localhost");
        assert_eq!(of("GET", "/", &[host, ("content-length", "1")]), Some(413));
        assert_eq!(of("GET", "/", &[host, ("transfer-encoding", "chunked")]), Some(413));
        assert_eq!(of("GET", "/", &[host, ("content-length", "0")]), None);
        assert_eq!(of("GET", &format!("/{}", "x".repeat(TARGET_LEN)), &[host]), Some(414));
    }
}
