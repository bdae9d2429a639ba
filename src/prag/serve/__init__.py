"""The service: a knowledge base behind an OpenAI-compatible API, and a page to see it work.

settings     what it is told at its start
jobs         documents that were handed in, on the disk until they are built in
builder      the process that builds them in, and the thread that watches over it
visible      what may be found: not what was withdrawn
condense     the question that a conversation comes to
asking       a question on its way: admitted, answered, streamed, given up
service      all of these over one knowledge base
guards       who may ask, from where, and how much
chat         OpenAI's calls
documents    the calls that change and look into the corpus
watching     metrics
app          the web application of them
"""
