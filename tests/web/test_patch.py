"""A picture that is drawn over another is what it is in an empty place, and what stayed the same is left alone."""

import pytest

from nvfp4viz.web import asset

PICTURES = [
    "",
    '<g class="bars"><rect x="1" y="2"></rect><rect x="3" y="2"></rect></g><text x="4">a &amp; b</text>',
    '<g class="bars"><rect x="1" y="2"></rect></g><text x="4" class="soft">a &lt; b</text><g class="cursor"></g>',
    '<line x1="0"></line><text x="4" class="soft">a &lt; b</text>',
    '<text x="4" data-tensor="&quot;x&#39;">one</text><text x="4"></text><g><g><circle r="2"></circle></g></g>',
    '<text x="4">one</text><text y="4">two</text><g><path d="M0,0z"></path><g><circle r="3"></circle></g></g>',
]
DRAW = """([source, pictures]) => {
    const patch = new Function(source.replaceAll('export ', '') + 'return patch')();
    const empty = () => document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    const wrong = [];
    for (const one of pictures) for (const other of pictures) {
        const [place, fresh] = [empty(), empty()];
        const before = patch(place, one, []);
        const nodes = [...place.querySelectorAll('*')];
        const again = patch(place, one, before);
        if (nodes.some((node, i) => node !== place.querySelectorAll('*')[i])) wrong.push(['made anew', one]);
        patch(place, other, again);
        fresh.innerHTML = other;
        if (!place.isEqualNode(fresh)) wrong.push([one, other, place.innerHTML]);
    }
    return wrong;
}"""
COUNTED = """([source, before, after]) => {
    const patch = new Function(source.replaceAll('export ', '') + 'return patch')();
    const place = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
    const parts = patch(place, before, []);
    const watch = new MutationObserver(() => {});
    watch.observe(place, {subtree: true, childList: true, attributes: true, characterData: true});
    patch(place, after, parts);
    return watch.takeRecords().map((r) => r.attributeName ?? 'text');
}"""


@pytest.fixture
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


@pytest.mark.browser
def test_over_any_other_it_is_what_it_is_in_an_empty_place(page):
    assert page.evaluate(DRAW, [asset("explorer/patch.js"), PICTURES]) == []


@pytest.mark.browser
def test_only_what_changed_is_touched(page):
    before = '<g><rect x="1" y="2"></rect><text x="4">one</text><text x="5">same</text></g>'
    after = '<g><rect x="1" y="3"></rect><text x="4">two</text><text x="5">same</text></g>'
    assert page.evaluate(COUNTED, [asset("explorer/patch.js"), before, after]) == ["y", "text"]
