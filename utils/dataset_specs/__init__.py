"""The datasets, one file each, named as on the command line.

base                          what a dataset is; loading and splitting
csv_file                      a CSV file of one's own
gsm8k                         grade school mathematics, a number
hotpot_300                    multi-hop questions over ten paragraphs, a few words
ai2_arc                       science questions, an option letter
ragbench_sentence_relevance   does a sentence help answer a question, a label
election_questions            harmful or harmless requests about elections, a label
medhallu                      is an answer to a medical question hallucinated, a label
rag_hallucinations            is an answer supported by its context, a label
truthful_qa                   questions that invite misconceptions, an option letter
cnn_dailymail                 news articles, a summary
sample/                       rows written for this project in the hub's columns; people, places, studies invented
"""
