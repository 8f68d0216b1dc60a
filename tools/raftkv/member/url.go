package member

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// ParseURL parses a URL at which a member is reached or listens: http or https, a host, a port, and
// nothing else. The error has the URL and says what it should be. All URLs are parsed here, so that
// none means one thing to one part of the program and another to the next.
func ParseURL(s string) (*url.URL, error) {
	s = strings.TrimSpace(s)
	bad := func(why string) (*url.URL, error) {
		return nil, fmt.Errorf("URL %q: %s, as in http://10.0.0.1:2379", s, why)
	}
	if !strings.Contains(s, "://") {
		return bad("it must begin with http:// or https://")
	}
	u, err := url.Parse(s)
	if err != nil {
		// What is wrong with it is easier to see than to say.
		return bad("it must be a host and a port")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return bad("raftkv listens and connects over http and https only")
	}
	if port, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 || u.Hostname() == "" {
		return bad("it must be a host and a port of 1 to 65535")
	}
	if *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
		return bad("it must be a host and a port and nothing else")
	}
	return u, nil
}

// ParseURLs parses a list of URLs and returns it sorted, as a Member has them. An empty one is an
// error.
func ParseURLs(list []string) ([]string, error) {
	if len(list) == 0 {
		return nil, errors.New("no URLs given")
	}
	var urls []string
	for _, s := range list {
		u, err := ParseURL(s)
		if err != nil {
			return nil, err
		}
		urls = append(urls, u.String())
	}
	slices.Sort(urls)
	return urls, nil
}

// ParseListenURLs parses a list of URLs at which to listen, which may be empty. Each must be that
// of an IP address or of localhost: another name may stand for several addresses, or for another
// one tomorrow.
func ParseListenURLs(list []string) ([]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	urls, err := ParseURLs(list)
	if err != nil {
		return nil, err
	}
	for _, s := range urls {
		u, _ := url.Parse(s)
		if _, err := netip.ParseAddr(u.Hostname()); err != nil && u.Hostname() != "localhost" {
			return nil, fmt.Errorf("URL %q: to listen takes an IP address or localhost; 0.0.0.0 is every address of the machine", s)
		}
	}
	return urls, nil
}
